"""Programs become files, all files of one target in one child process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdp_export import files, isolation
from pdp_export.converters import registry
from pdp_export.errors import ConversionError
from pdp_export.targets import ConvertRequest


@dataclass(frozen=True)
class Job:
    """One file to write from one saved program."""

    program: Path
    path: Path
    request: ConvertRequest


def convert_files(target: str, jobs: Sequence[Job], log: Path | None = None) -> None:
    """Convert saved programs in a child process; the files appear whole, or none of them does.

    Raises:
        ConversionError: when the converter refuses the model or leaves no file.
        ChildCrashedError: when it dies, hangs or needs too much memory.
    """
    with ExitStack() as stack:
        partials = [stack.enter_context(files.atomic_path(job.path)) for job in jobs]
        orders = [
            {"program": str(job.program), "path": str(partial), "request": job.request.model_dump(mode="json")}
            for job, partial in zip(jobs, partials, strict=True)
        ]
        entry = "pdp_export.pipeline.conversion:convert_in_child"
        isolation.call(entry, {"target": target, "orders": orders}, what=f"converting to {target}", log=log)
        if not all(partial.exists() for partial in partials):
            raise ConversionError(
                f"the {target} converter left no file", where=f"targets: {target}", hint="see log.txt"
            )


def convert_in_child(target: str, orders: list[dict[str, Any]]) -> None:
    """Open each program by the guarded reader and run the converter. Entry point of the child process."""
    from pdp_export.graph.archive import load_program

    converter = registry.load(target)
    for order in orders:
        request = ConvertRequest.model_validate(order["request"])
        converter.convert(load_program(Path(order["program"])), Path(order["path"]), request)

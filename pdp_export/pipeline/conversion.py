"""One program becomes one file, in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdp_export import files, isolation
from pdp_export.converters import registry
from pdp_export.errors import ConversionError
from pdp_export.targets import ConvertRequest


def convert_file(program: Path, path: Path, target: str, request: ConvertRequest, log: Path | None = None) -> None:
    """Convert a saved program in a child process; `path` appears whole or not at all.

    Raises:
        ConversionError: when the converter refuses the model or leaves no file.
        ChildCrashedError: when it dies, hangs or needs too much memory.
    """
    with files.atomic_path(path) as partial:
        payload = {
            "program": str(program),
            "path": str(partial),
            "target": target,
            "request": request.model_dump(mode="json"),
        }
        entry = "pdp_export.pipeline.conversion:convert_in_child"
        isolation.call(entry, payload, what=f"converting to {target}", log=log)
        if not partial.exists():
            raise ConversionError(
                f"the {target} converter left no file", where=f"targets: {target}", hint="see log.txt"
            )


def convert_in_child(program: str, path: str, target: str, request: dict[str, Any]) -> None:
    """Open the program by the guarded reader and run the converter. Entry point of the child process."""
    from pdp_export.graph.archive import load_program

    parsed = ConvertRequest.model_validate(request)
    registry.load(target).convert(load_program(Path(program)), Path(path), parsed)

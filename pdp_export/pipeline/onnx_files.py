"""What else an .onnx file can become: dense again, or .ort. In a child process: the file may come from anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pdp_export import files, isolation
from pdp_export.errors import UsageError
from pdp_export.results import FileFacts
from pdp_export.runtimes.registry import name_for
from pdp_export.validation import isolated

CONFIG_SUFFIX = ".required_operators_and_types.config"


@dataclass(frozen=True)
class OrtFile:
    """A written .ort file and its configuration; `sparse` weights are stored with coordinates."""

    path: Path
    config: Path
    size_bytes: int
    sparse: int


def expand(path: Path, output: Path) -> FileFacts:
    """Write the .onnx file `path` with plain weights to `output`, whole or not at all, and return what it holds.

    Raises:
        UsageError: another format, or `output` is `path` itself.
        FileError: for a truncated, damaged, foreign or self-contradicting file.
        ChildCrashedError: reading it needed too much time or memory.
    """
    _require_onnx(path, "--expand")
    if output.exists() and output.samefile(path):
        raise UsageError("the dense file would replace the sparse one", where="--output", hint="choose another folder")
    with files.atomic_path(output) as temporary:
        isolation.call(
            "pdp_export.runtimes.onnx_expand:expand_in_child",
            {"path": str(path), "output": str(temporary)},
            what=f"expanding {path.name}",
            timeout_s=isolated.READ_TIMEOUT_S,
        )
    return isolated.describe("onnx", output)


def to_ort(path: Path, output: Path) -> OrtFile:
    """Write the .onnx file `path` as .ort for ONNX Runtime's minimal builds, sparse weights kept sparse.

    Beside it lies the configuration that reduces such a build to the operators and types of this file.

    Raises:
        UsageError: another format.
        FileError: for a truncated, damaged, foreign or self-contradicting file.
        ConversionError: ONNX Runtime refuses to convert it.
        ProofError: the .ort file answers otherwise than the .onnx file.
    """
    _require_onnx(path, "--ort")
    config = output.with_suffix(CONFIG_SUFFIX)
    with files.atomic_path(output) as ort, files.atomic_path(config) as operators:
        sparse = isolation.call(
            "pdp_export.runtimes.onnx_ort:convert_in_child",
            {"path": str(path), "output": str(ort), "config": str(operators)},
            what=f"converting {path.name} to .ort",
        )
    return OrtFile(output, config, output.stat().st_size, int(sparse))


def describe_ort(path: Path) -> FileFacts:
    """Return what an .ort file holds, read from its own bytes, and whether ONNX Runtime opens it.

    Raises:
        FileError: for a missing, truncated, damaged or foreign file.
        ChildCrashedError: reading it needed too much time or memory.
    """
    answer = isolation.call(
        "pdp_export.runtimes.ort_file:describe_in_child",
        {"path": str(path)},
        what=f"reading {path.name}",
        timeout_s=isolated.READ_TIMEOUT_S,
    )
    return FileFacts.model_validate(answer)


def _require_onnx(path: Path, flag: str) -> None:
    if name_for(path) != "onnx":
        raise UsageError(f"{flag} takes an .onnx file, not {path.name}", where=flag)

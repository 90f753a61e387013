"""Sparse ONNX files become dense ones, in a child process: the file may come from anywhere."""

from __future__ import annotations

from pathlib import Path

from pdp_export import files, isolation
from pdp_export.errors import UsageError
from pdp_export.results import FileFacts
from pdp_export.runtimes.registry import name_for
from pdp_export.validation import isolated

_SUFFIX = ".onnx"


def expand(path: Path, output: Path) -> FileFacts:
    """Write the .onnx file `path` with plain weights to `output`, whole or not at all, and return what it holds.

    Raises:
        UsageError: another format, or `output` is `path` itself.
        FileError: for a truncated, damaged, foreign or self-contradicting file.
        ChildCrashedError: reading it needed too much time or memory.
    """
    if name_for(path) != "onnx" or output.suffix != _SUFFIX:
        raise UsageError(f"only .onnx files can be expanded, not {path.name} to {output.name}", where="--expand")
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

"""The twin of the Core ML converter: re-opens a saved .mlpackage on any system, runs it on macOS.

Reading needs neither Apple's framework nor coremltools' native parts: the manifest (`coreml_files`),
the ML Program (`mil_constants`) and the blob file (`mil_weights`) are decoded from their own bytes.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import FileError, NotRunnableError
from pdp_export.files import size_bytes
from pdp_export.results import FileFacts, StoredWeight, TensorFacts, TensorSpec
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.runtimes.mil_constants import Constant, ProgramContents, read_program, shape_of
from pdp_export.runtimes.registry import Session

NAME = "coreml"

_MATRIX_RANK = 2
# What torch.export puts before, and coremltools behind, the name of a parameter.
_DECORATION = re.compile(r"^[pbc]_|(_to_fp16)?(_sparsified)?$")


def version() -> str:
    """Return the version of coremltools, through which macOS runs the file."""
    return installed_version("coremltools")


def describe(path: Path) -> FileFacts:
    """Return what the package holds, decoded from its own bytes.

    Raises:
        FileError: for a truncated, damaged or foreign package.
    """
    package = PackageFiles(path)
    specification = package.specification
    contents = read_program(specification.mlProgram, package.weights)
    inputs = tuple(_spec(feature, {}) for feature in specification.description.input)
    shapes = _program_shapes(specification.mlProgram)
    return FileFacts(
        format=NAME,
        file_bytes=size_bytes(path),
        inputs=inputs,
        outputs=tuple(_spec(feature, shapes) for feature in specification.description.output),
        tensors=tuple(_facts(constant) for constant in contents.constants),
        operators=dict(sorted(contents.operators.items())),
        metadata=dict(sorted(specification.description.metadata.userDefined.items())),
        notes=_notes(specification, contents),
    )


def weights(path: Path) -> list[StoredWeight]:
    """Return every decoded float constant of rank >= 2, in PyTorch layout (MIL uses the same).

    Names are those of the parameters with dots as underscores, where coremltools kept them. A tensor
    that several operators read is returned once for each of them.

    Raises:
        FileError: for a damaged package, or one with weights in a form that is not decoded here.
    """
    package = PackageFiles(path)
    contents = read_program(package.specification.mlProgram, package.weights)
    if contents.undecoded:
        name, operator = contents.undecoded[0]
        raise FileError(
            f"{len(contents.undecoded)} weights are stored by {operator}, which is not decoded here",
            where=name,
            hint="only dense and sparse float weights can be compared",
        )
    return [
        StoredWeight(_readable(constant.name), constant.values, constant.encoding)
        for constant in contents.constants
        for _ in range(constant.uses)
        if constant.values.ndim >= _MATRIX_RANK and np.issubdtype(constant.values.dtype, np.floating)
    ]


def open_session(path: Path, threads: int = 1) -> Session:
    """Open the package in Apple's framework. Core ML chooses its own threads: `threads` is ignored.

    Raises:
        NotRunnableError: anywhere but on macOS.
        FileError: for a damaged or foreign package.
    """
    del threads
    facts = describe(path)
    if platform.system() != "Darwin":
        raise NotRunnableError(
            "Core ML executes on macOS only; here the package can be read, not run",
            where=path.name,
            hint="run the same validation on a Mac (macOS 13 or later)",
        )
    from pdp_export.runtimes.coreml_session import CoreMLSession

    return CoreMLSession(path, facts)


def _readable(name: str) -> str:
    return _DECORATION.sub("", name) or name


def _facts(constant: Constant) -> TensorFacts:
    values = constant.values
    return TensorFacts(
        name=_readable(constant.name),
        shape=values.shape,
        dtype=values.dtype.name,
        stored_dtype=values.dtype.name,
        encoding=constant.encoding,
        zeros=int(values.size - np.count_nonzero(values)),
        elements=int(values.size),
        stored_bytes=constant.stored_bytes,
        max_abs=_largest(values),
    )


def _largest(values: np.ndarray[Any, Any]) -> float | None:
    if not np.issubdtype(values.dtype, np.floating):
        return None
    return float(np.abs(values).max(where=np.isfinite(values), initial=0))


def _spec(feature: Any, program_shapes: dict[str, tuple[int, ...]]) -> TensorSpec:
    """Describe an input or output; an open axis is named by its range, and outputs show it as size 1."""
    array = feature.type.multiArrayType
    shape = tuple(array.shape) or program_shapes.get(feature.name, ())
    ranges = {axis: (size.lowerBound, size.upperBound) for axis, size in enumerate(array.shapeRange.sizeRanges)}
    dynamic = {axis: f"{low}..{high}" for axis, (low, high) in ranges.items() if low != high}
    dynamic |= {axis: "open" for axis, size in enumerate(shape) if size < 0}
    return TensorSpec(
        name=feature.name,
        shape=tuple(max(size, 1) for size in shape),
        dtype=_dtype(array),
        dynamic=dynamic,
    )


def _dtype(array: Any) -> str:
    name = array.ArrayDataType.Name(array.dataType) if array.dataType in array.ArrayDataType.values() else "UNKNOWN"
    return {"DOUBLE": "float64"}.get(name, str(name).lower())


def _program_shapes(program: Any) -> dict[str, tuple[int, ...]]:
    """Return the declared shapes of the results of the main function (a flexible output has none elsewhere)."""
    if "main" not in program.functions:
        return {}
    function = program.functions["main"]
    block = function.block_specializations[function.opset]
    return {out.name: shape_of(out.type.tensorType) for op in block.operations for out in op.outputs}


def _notes(specification: Any, contents: ProgramContents) -> tuple[str, ...]:
    notes = [f"specification version {specification.specificationVersion}"]
    notes += [f"{name}: stored by {operator}, not decoded here" for name, operator in contents.undecoded]
    return tuple(notes)

"""The twin of the Core ML converter: re-opens a saved .mlpackage, and runs it, on any system.

Reading needs neither Apple's framework nor coremltools' native parts: the manifest (`coreml_files`),
the ML Program (`mil.contents`) and the blob file (`mil.weight_file`) are decoded from their own bytes.
On macOS Core ML runs the package, elsewhere the interpreter in `mil`.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.files import size_bytes
from pdp_export.results import Execution, FileFacts, StoredWeight, TensorFacts
from pdp_export.runtimes import coreml_features
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.runtimes.mil.contents import ProgramContents, StoredConstant, read_program
from pdp_export.runtimes.registry import Session

NAME = "coreml"

_MATRIX_RANK = 2
_STORED = {"FLOAT16": "float16", "FLOAT32": "float32"}
# What torch.export puts before, and coremltools behind, the name of a parameter.
_DECORATION = re.compile(r"^[pbc]_|(_to_fp16)?(_sparsified|_quantized|_palettized)?$")


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
    return FileFacts(
        format=NAME,
        file_bytes=size_bytes(path),
        inputs=coreml_features.input_specs(specification),
        outputs=coreml_features.output_specs(specification),
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
            hint="update pdp-export",
        )
    return [
        StoredWeight(_readable(constant.name), constant.values, constant.encoding)
        for constant in contents.constants
        for _ in range(constant.uses)
        if constant.values.ndim >= _MATRIX_RANK and np.issubdtype(constant.values.dtype, np.floating)
    ]


def open_session(path: Path, threads: int = 1) -> Session:
    """Open the package: in Core ML on macOS, which chooses its own threads, elsewhere in the interpreter.

    Raises:
        NotRunnableError: for an operator that the interpreter does not have.
        FileError: for a damaged or foreign package.
    """
    if _has_core_ml():
        from pdp_export.runtimes.coreml_session import CoreMLSession

        return CoreMLSession(path, describe(path), coreml_features.class_labels(PackageFiles(path).specification))
    from pdp_export.runtimes.mil.session import MilSession

    package = PackageFiles(path)
    inputs, outputs = (
        read(package.specification) for read in (coreml_features.input_specs, coreml_features.output_specs)
    )
    return MilSession(package, inputs, outputs, threads)


def execution() -> Execution:
    """Return what runs a package on this machine; an interpreter's time says nothing about an iPhone."""
    if _has_core_ml():
        return Execution(by=f"Core ML on macOS {platform.mac_ver()[0]}")
    return Execution(
        by="the MIL interpreter of pdp-export",
        why_not_timed="Core ML executes on Apple systems only; the interpreter's time says nothing about it",
    )


def _has_core_ml() -> bool:
    return platform.system() == "Darwin"


def _readable(name: str) -> str:
    return _DECORATION.sub("", name) or name


def _facts(constant: StoredConstant) -> TensorFacts:
    values = constant.values
    return TensorFacts(
        name=_readable(constant.name),
        shape=values.shape,
        dtype=values.dtype.name,
        stored_dtype=_STORED.get(constant.stored_kind, constant.stored_kind.lower()),
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


def _notes(specification: Any, contents: ProgramContents) -> tuple[str, ...]:
    notes = [f"specification version {specification.specificationVersion}"]
    notes += coreml_features.notes(specification)
    notes += [f"{name}: stored by {operator}, not decoded here" for name, operator in contents.undecoded]
    return tuple(notes)

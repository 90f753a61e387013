"""Writes one package and opens it again."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.export import ExportedProgram

from pdp_export.converters import coreml_export
from pdp_export.pipeline.program_io import input_specs, output_names_of
from pdp_export.targets import ConvertRequest


def write(
    program: ExportedProgram, path: Path, *, encoding: str, precision: str = "fp16", min_ios: int = 18
) -> tuple[ConvertRequest, int]:
    """Write a package; return the request and the bytes of its weight file."""
    request = ConvertRequest(
        inputs=input_specs(program), outputs=output_names_of(program), precision=precision, encoding=encoding,
        options={"min_ios": min_ios},
    )  # fmt: skip
    coreml_export.convert(program, path, request)
    return request, (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def feed(request: ConvertRequest, inputs: tuple[Tensor, ...]) -> dict[str, object]:
    """Return the inputs by name, as the package takes them."""
    return {spec.name: value.numpy() for spec, value in zip(request.inputs, inputs, strict=True)}

"""Small networks and requests for the Core ML tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from pdp_export.converters import coreml_export
from pdp_export.graph.capture import capture
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest

BATCH = {0: {0: "batch"}}
DTYPES = {torch.float32: "float32", torch.int64: "int64"}


class Lambda(nn.Module):
    """A network of the given layers whose forward is the given function."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(self.layers, *inputs)


def pruned(model: nn.Module, zeros: float) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                limit = parameter.abs().flatten().kthvalue(max(1, int(zeros * parameter.numel()))).values
                parameter[parameter.abs() <= limit] = 0
    return model.eval()


def request(*inputs: torch.Tensor, dynamic: Mapping[int, Any] | None = None, **changes: Any) -> ConvertRequest:
    specs = tuple(
        TensorSpec(name=f"x{i}", shape=tuple(x.shape), dtype=DTYPES[x.dtype], dynamic=(dynamic or {}).get(i, {}))
        for i, x in enumerate(inputs)
    )
    values = {"inputs": specs, "outputs": ("y",), "precision": "fp16", **changes}
    return ConvertRequest.model_validate(values)


def convert(path: Path, model: nn.Module, *inputs: torch.Tensor, dynamic=None, **changes: Any) -> ExportedProgram:
    program = capture(model.eval(), inputs, dynamic)
    coreml_export.convert(program, path, request(*inputs, dynamic=dynamic, **changes))
    return program

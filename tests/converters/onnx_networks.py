"""Pruning, folding and capture of small networks, for the tests of the ONNX converter."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export


def prune(model: nn.Module, zeros: float) -> nn.Module:
    """Zero the smallest weights of every matrix and kernel."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and zeros:
                weight[weight.abs() <= weight.abs().flatten().quantile(zeros)] = 0
    return model


def fold(model: nn.Module) -> nn.Module:
    """Fold BatchNorm with lively statistics, so that the outputs depend on the inputs."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if isinstance(module[i], nn.Conv2d) and isinstance(module[i + 1], nn.BatchNorm2d):
                    nn.init.kaiming_normal_(module[i].weight)
                    nn.init.uniform_(module[i + 1].weight, -1.5, 1.5)
                    module[i] = torch.nn.utils.fuse_conv_bn_eval(module[i].eval(), module[i + 1].eval())
                    module[i + 1] = nn.Identity()
    return model


def capture(model: nn.Module, *inputs: torch.Tensor, dynamic: bool = True) -> ExportedProgram:
    shapes = tuple({0: Dim.DYNAMIC} for _ in inputs) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about itself, and about the pruning hooks of one test
        return export(model.eval(), inputs, dynamic_shapes=shapes).run_decompositions({})

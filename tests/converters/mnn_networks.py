"""What the tests of the MNN converter share: pruned networks, written files, their distance from PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pdp_export.converters import mnn_export
from pdp_export.results import TensorSpec
from pdp_export.runtimes import mnn_runtime
from pdp_export.targets import ConvertRequest


def fold(module: nn.Module) -> nn.Module:
    """Fold BatchNorm by hand, wherever a Sequential holds a convolution and its norm side by side."""
    for block in [item for item in module.modules() if isinstance(item, nn.Sequential)]:
        for index, (first, second) in enumerate(zip(list(block), list(block)[1:], strict=False)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                block[index], block[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return module


def prune(module: nn.Module, share: float) -> nn.Module:
    """Draw weights that keep the scale of the activations, and zero the smallest of every layer but depthwise ones."""
    for item in module.modules():
        weight = getattr(item, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            with torch.no_grad():
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
                if share and getattr(item, "groups", 1) == 1:
                    keep = weight.abs() > weight.abs().flatten().quantile(share)
                    weight.copy_(torch.where(keep, weight * 1.4, 0.0))
    return module.eval()


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes = tuple({0: torch.export.Dim("n")} if x.shape[0] > 1 else None for x in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns about its own treespec
        return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes).run_decompositions({})


def request(inputs: tuple[Tensor, ...], outputs: tuple[str, ...] = ("logits",), **more: object) -> ConvertRequest:
    names = ("image", "second")
    specs = tuple(
        TensorSpec(name=name, shape=tuple(x.shape), dtype=str(x.dtype).removeprefix("torch."), dynamic={0: "batch"})
        for name, x in zip(names, inputs, strict=False)
    )
    return ConvertRequest(inputs=specs, outputs=outputs, **more)


def write(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, **more: object) -> Path:
    mnn_export.convert(capture(module, inputs), path, request(inputs, **more))
    return path


def error(path: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Return max|y - y_torch| / max|y_torch| over all outputs."""
    session = mnn_runtime.open_session(path)
    with torch.no_grad():
        expected = module(*inputs)
    found = session.run({spec.name: x.numpy() for spec, x in zip(session.inputs, inputs, strict=True)})
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    worst = 0.0
    for value, wanted in zip(found.values(), expected, strict=True):
        assert value.shape == tuple(wanted.shape)
        worst = max(worst, float(np.abs(value - wanted.numpy()).max() / wanted.abs().max()))
    return worst

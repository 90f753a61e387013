"""Helpers of the removal tests: dead channels, trained-looking BatchNorms, and one check of every promise."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pdp_export.removal import Removed, remove_channels
from pdp_export.removal.precision import widened
from pdp_export.removal.proof import relative_difference

Check = Callable[..., Removed]


def check_removal(model: nn.Module, *inputs: Tensor, batch: bool = False, align: int = 1) -> Removed:
    """Remove channels and hold the result against the original, in float64 where nothing was rounded."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    dynamic = {index: {0: "batch"} for index in range(len(inputs))} if batch else None
    removed = remove_channels(model, inputs, dynamic=dynamic, align=align)

    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    rounded = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    rounded |= any(not _is_part(value, before.get(name)) for name, value in removed.program.state_dict.items())
    exact = copy.deepcopy(model).double().eval()
    physical = widened(removed.program)
    for size in (1, 5) if batch else (len(inputs[0]),):
        fresh = [torch.randn(size, *value.shape[1:], dtype=torch.float64) for value in inputs]
        pairs = zip(pytree.tree_leaves(exact(*fresh)), pytree.tree_leaves(physical(*fresh)), strict=True)
        for old, new in pairs:
            assert relative_difference(old, new) <= (1e-5 if rounded else 1e-12)
    assert all(value.dtype != torch.float64 for value in removed.program.state_dict.values())
    assert not any(bool((value.signbit() & (value == 0)).any()) for value in removed.program.state_dict.values())
    return removed


def _is_part(value: Tensor, before: Tensor | None) -> bool:
    """Tell whether a tensor was only cut, not changed."""
    return before is not None and bool(torch.isin(value, before + 0.0).all())


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorms statistics and shifts as after training, so that dead channels emit constants."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -1.0, 1.0)
            uniform(module.running_mean, -0.5, 0.5)
            uniform(module.running_var, 0.5, 1.5)
    return model


def kill(layer: nn.Module, *channels: int, norm: nn.Module | None = None) -> None:
    """Zero these filters with their bias, and with `norm` the BatchNorm's weight and bias as well."""
    index = list(channels)
    for module in (layer, norm):
        if module is not None:
            module.weight.data[index] = 0
            if module.bias is not None:
                module.bias.data[index] = 0

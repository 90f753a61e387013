"""The mean score of a model over a loader."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn

from pdp_export.errors import DataError
from pdp_export.training.batches import BatchReader
from pdp_export.training.records import Objective


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    objective: Objective,
    *,
    input_names: Sequence[str] = (),
    dynamic: Mapping[int, Collection[int]] | None = None,
) -> float:
    """Return the mean over samples of ``objective.scores``, the model in inference mode on its own device.

    The modes of all submodules are given back afterwards.

    Raises:
        DataError: for an empty loader, changing shapes, or scores that are not one number per sample.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    total, count = 0.0, 0
    with inference_mode_of(model):
        for batch in BatchReader(input_names, dynamic, "validation").read(loader):
            inputs, target = move_data_to_device(batch, device)
            scores = objective.scores(model(*inputs), target)
            if scores.dim() != 1:
                raise DataError(f"the metric gave shape {tuple(scores.shape)}, not (samples,)", where="task.metric")
            total += float(scores.double().sum())
            count += scores.numel()
    return total / count


@contextmanager
def inference_mode_of(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode and give every submodule its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

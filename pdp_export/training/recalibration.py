"""BatchNorm measured again: after hardening, its running statistics belong to another function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pdp_export.errors import DataError, first_line
from pdp_export.results import Record
from pdp_export.training.batches import BatchReader
from pdp_export.training.evaluation import inference_mode_of


class RecalibrationReport(Record):
    """What was measured again: `layers` BatchNorm modules on `batches` batches.

    `shift` is the largest change of a running mean, in standard deviations as they were before, and `layer` where
    it was.
    """

    layers: int
    batches: int
    shift: float = 0.0
    layer: str = ""


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    limit: int,
    *,
    input_names: Sequence[str] = (),
    dynamic: Mapping[int, Collection[int]] | None = None,
) -> RecalibrationReport:
    """Set the running mean and variance of every BatchNorm to their averages over at most `limit` batches.

    Each batch counts alike; everything but BatchNorm is in eval mode meanwhile, on the model's own device. Weights,
    momenta and modes stay as they are, and so do modules that keep no running statistics. A model without
    BatchNorm is left alone. After an error the old statistics are back.

    Use training batches: the statistics then belong to the data that the weights belong to. A few hundred samples,
    or sorted ones, measure something else.

    Raises:
        DataError: for an empty loader, or batches that BatchNorm cannot measure (one value per channel).
    """
    layers = {name: module for name, module in model.named_modules() if _tracks(module)}
    if not layers:
        return RecalibrationReport(layers=0, batches=0)
    device = next(iter(layers.values())).running_mean.device
    before = {name: _statistics(layer) for name, layer in layers.items()}
    reader = BatchReader(input_names, dynamic, "train")
    count = 0
    with _measuring(model, layers):
        for inputs, _ in islice(reader.read(batches), limit):
            _forward(model, move_data_to_device(inputs, device), count)
            count += 1
    shifts = {name: _shift(layer, *before[name]) for name, layer in layers.items()}
    largest = max(shifts, key=lambda name: shifts[name])
    return RecalibrationReport(layers=len(layers), batches=count, shift=shifts[largest], layer=largest)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.track_running_stats


@contextmanager
def _measuring(model: nn.Module, layers: Mapping[str, Any]) -> Iterator[None]:
    """Let BatchNorm alone train, with a cumulative average; on an error give the old statistics back."""
    momenta = {name: layer.momentum for name, layer in layers.items()}
    kept = {name: {key: value.clone() for key, value in layer.named_buffers()} for name, layer in layers.items()}
    with inference_mode_of(model):
        try:
            for layer in layers.values():
                layer.reset_running_stats()
                layer.momentum = None
                layer.training = True
            yield
        except BaseException:
            for name, layer in layers.items():
                for key, value in layer.named_buffers():
                    value.copy_(kept[name][key])
            raise
        finally:
            for name, layer in layers.items():
                layer.momentum = momenta[name]


def _forward(model: nn.Module, inputs: tuple[Tensor, ...], number: int) -> None:
    try:
        model(*inputs)
    except ValueError as error:
        raise DataError(
            f"BatchNorm cannot be measured on batch {number + 1}: {first_line(error)}",
            where="data.factory: train",
            hint="use larger batches, or pruning.recalibrate_batchnorm: false",
        ) from error


def _statistics(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean.clone(), (layer.running_var + layer.eps).sqrt()


def _shift(layer: Any, mean: Tensor, deviation: Tensor) -> float:
    return float(((layer.running_mean - mean).abs() / deviation).max())

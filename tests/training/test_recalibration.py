"""BatchNorm measured again: the exact average, and nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import DataError
from pdp_export.training.recalibration import recalibrate
from tests.training.nets import dropout_net, same, weights


def batches(count: int, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = 2 + 3 * torch.randn(count, size, 3, 6, 6, generator=generator)
    return [(image, torch.zeros(size)) for image in images]


def test_statistics_are_the_averages_of_the_batches():
    """Pins a decaying average that still remembers the soft model, or statistics of a train-mode layer before."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    data = batches(7)
    report = recalibrate(model, data, 4)
    used = torch.stack([image for image, _ in data[:4]])
    assert torch.allclose(model[0].running_mean, used.mean((1, 3, 4)).mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, used.var((1, 3, 4)).mean(0), rtol=1e-4)
    assert (report.layers, report.batches) == (2, 4)


def test_only_running_statistics_change():
    """Pins weights, modes or momenta that recalibration leaves different."""
    model = dropout_net()
    model.insert(2, nn.BatchNorm2d(8, momentum=0.3, track_running_stats=False))
    model.insert(3, nn.InstanceNorm2d(8, track_running_stats=True))
    model[0].eval()
    modes = [module.training for module in model.modules()]
    before = weights(model)
    report = recalibrate(model, batches(3), 10)
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert [module.training for module in model.modules()] == modes
    assert model[1].momentum == 0.1
    assert model[2].momentum == 0.3
    assert report.layers == 1
    assert report.batches == 3


def test_the_largest_shift_is_named():
    """Pins a report that hides which layer was off, or measures in units that mean nothing."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    model[0].running_mean.fill_(2.0)
    model[0].running_var.fill_(9.0)
    model[1].running_mean.fill_(5.0)
    model[1].running_var.fill_(4.0)
    report = recalibrate(model, batches(6, 40), 6)
    assert report.layer == "1"
    assert report.shift == pytest.approx(2.5, abs=0.1)


def test_a_model_without_batchnorm_is_left_alone():
    """Pins calibration data that is read for nothing, or an error for a transformer."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    assert recalibrate(model, [], 5).layers == 0


def _failing() -> Any:
    yield from batches(2)
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], DataError, "train loader is empty"),
        ([*batches(1), (torch.randn(1, 3, 1, 1), torch.zeros(1))], DataError, "changed from"),
        (_failing(), RuntimeError, "disk is gone"),
    ],
)
def test_after_an_error_the_old_statistics_are_back(loader: Any, error: type[Exception], message: str):
    """Pins a model that is half recalibrated, in train mode, after the loader failed."""
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    model[0].running_mean.fill_(7.0)
    before = weights(model)
    with pytest.raises(error, match=message):
        recalibrate(model, loader, 5)
    assert same(weights(model), before)
    assert not model[0].training
    assert model[0].momentum == 0.1


def test_one_value_per_channel_is_an_error_that_names_the_data():
    """Pins torch's ValueError about train mode, for a batch size in the user's loader."""
    with pytest.raises(DataError, match="on batch 1"):
        recalibrate(nn.Sequential(nn.BatchNorm2d(3)), [(torch.randn(1, 3, 1, 1), torch.zeros(1))], 5)

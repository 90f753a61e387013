"""The Lightning callback inside the real Trainer."""

from __future__ import annotations

import csv
import logging
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own imports warn of its own dependencies
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger

from pdp_export.errors import FileError, UsageError
from pdp_export.integrations import LightningPruning
from pdp_export.pruning import Channel, Pruner, Unstructured

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),  # advice about workers and logging intervals
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # Lightning calls what torch deprecates
]
BATCHES = 12


@pytest.fixture(autouse=True)
def _quiet():
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


class Module(pl.LightningModule):
    """A tiny classifier whose every weight that counts lies in `net`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))

    def training_step(self, batch, _index):
        inputs, target = batch
        return F.cross_entropy(self.net(inputs), target)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Resumable:
    """Batches in one order, whose position Lightning can save and restore (a plain DataLoader starts over)."""

    def __init__(self):
        self.at = 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        start, self.at = self.at, 0
        for index in range(start, BATCHES):
            self.at = (index + 1) % BATCHES
            torch.manual_seed(index)
            yield torch.randn(4, 8), torch.randint(0, 3, (4,))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def loader() -> DataLoader:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(48, 8), torch.randint(0, 3, (48,))), batch_size=4)


def pruning(**options) -> LightningPruning:
    return LightningPruning(lambda module: Pruner(module.net, Unstructured(0.8)), **options)


def trainer(folder, *callbacks, **options) -> pl.Trainer:
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_checkpointing": False}
    switches = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**defaults, **switches, **options})


def test_zeros_are_exact_and_the_module_is_ordinary_at_the_end(tmp_path):
    """A fit that ends soft, or with masks left on, would be exported dense."""
    module, callback = Module(), pruning()
    keys = set(module.state_dict())
    trainer(tmp_path, callback).fit(module, loader())
    weight = module.net[2].weight
    assert int((weight == 0).sum()) == round(0.8 * weight.numel()) == callback.report.zeros
    assert not torch.signbit(weight[weight == 0]).any()
    assert set(module.state_dict()) == keys
    assert callback.report.warnings == ()


class Recorder(Callback):
    """Remembers progress and sparsity after each batch."""

    def __init__(self, watched):
        self.watched, self.progress = watched, []

    def on_train_batch_end(self, *_):
        self.progress.append(self.watched.pruner.progress)


@pytest.mark.parametrize("accumulated", [1, 5])
def test_progress_counts_optimizer_steps_not_batches(tmp_path, accumulated):
    """Counted in batches the ramp would end after a fifth of the updates; 12 batches are 3 updates of 5, 5 and 2."""
    module, callback = Module(), pruning(harden=False)
    recorder = Recorder(callback)
    trainer(tmp_path, callback, recorder, accumulate_grad_batches=accumulated).fit(module, loader())
    updates = [1] * BATCHES if accumulated == 1 else [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1]
    done = torch.tensor(updates * 2).cumsum(0)
    assert recorder.progress == pytest.approx((done / done[-1]).tolist())
    assert callback.pruner.state_dict()["meta"]["clock"]["steps"] == sum(updates * 2)
    assert callback.report is None


@pytest.mark.parametrize("at", [12, 17])
def test_resumed_run_gives_the_weights_of_the_uninterrupted_one(tmp_path, at):
    """A mask state lost at an epoch's end (12) or within the second epoch (17) gives other zeros in the end."""
    straight, callback = Module(), pruning()
    trainer(tmp_path, callback).fit(straight, Resumable())
    keeper = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=at, save_top_k=-1, filename="{step}")
    trainer(tmp_path, pruning(), keeper, enable_checkpointing=True).fit(Module(), Resumable())
    resumed, again = Module(), pruning()
    path = tmp_path / "kept" / f"step={at}.ckpt"
    trainer(tmp_path, again).fit(resumed, Resumable(), ckpt_path=path, weights_only=True)
    for (name, one), other in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert again.report == callback.report


def test_checkpoint_of_another_pruner_is_refused(tmp_path):
    """The thresholds of another pattern would be taken silently, since the tensors fit."""
    keeper = ModelCheckpoint(tmp_path, every_n_train_steps=5, filename="{step}")
    trainer(tmp_path, pruning(), keeper, enable_checkpointing=True, max_epochs=1).fit(Module(), loader())
    other = LightningPruning(lambda module: Pruner(module.net, Unstructured(0.7)))
    with pytest.raises(FileError, match="another pruner"):
        trainer(tmp_path, other).fit(Module(), loader(), ckpt_path=tmp_path / "step=10.ckpt", weights_only=True)


def test_state_is_gone_after_hardening(tmp_path):
    """The last checkpoint of a fit is written after hardening: it must hold plain weights and no mask state."""
    keeper = ModelCheckpoint(tmp_path, save_last=True, every_n_epochs=10)
    module = Module()
    trainer(tmp_path, pruning(), keeper, enable_checkpointing=True).fit(module, loader())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "LightningPruning" not in saved["callbacks"]
    Module().load_state_dict(saved["state_dict"])


def test_statistics_reach_the_logger(tmp_path):
    """What goes wrong with masks must be seen in the curves, in rows of the steps that the module logs."""
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, pruning(), logger=logger, log_every_n_steps=6).fit(Module(), loader())
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [5, 11, 17, 23]
    assert float(rows[-1]["pruning/sparsity"]) == pytest.approx(0.8, abs=1e-3)
    assert float(rows[-1]["pruning/2/current"]) == pytest.approx(0.8, abs=1e-3)


def test_a_ready_pruner_of_a_part_is_taken(tmp_path):
    """Users with example inputs and options build the Pruner themselves."""
    module = Module()
    pruner = Pruner(module.net, Channel(0.5, align=1), example_inputs=(torch.randn(2, 8),), prune_first=True)
    trainer(tmp_path, LightningPruning(pruner)).fit(module, loader())
    assert int((module.net[2].weight == 0).all(1).sum()) + int((module.net[0].weight == 0).all(1).sum()) == 32


class Manual(Module):
    """Steps its optimizer itself, every third batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(super().training_step(batch, index))
        if index % 3 == 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def test_manual_optimization_needs_and_takes_a_number_of_steps(tmp_path):
    """Lightning's estimate counts batches there, so the ramp would never end."""
    with pytest.raises(UsageError, match="how many optimizer steps"):
        trainer(tmp_path, pruning()).fit(Manual(), loader())
    callback = pruning(total_steps=8)
    trainer(tmp_path, callback).fit(Manual(), loader())
    assert callback.report.warnings == ()


def test_endless_run_is_refused_before_training(tmp_path):
    """Without an end there is no progress, and nothing would ever be pruned."""
    with pytest.raises(UsageError, match="total_steps"):
        trainer(tmp_path, pruning(), max_epochs=-1).fit(Module(), loader())


def test_bf16_autocast_gives_the_same_ratio(tmp_path):
    """Under mixed precision the masks are computed in float32 and the zeros stay exact."""
    module, callback = Module(), pruning()
    trainer(tmp_path, callback, precision="bf16-mixed").fit(module, loader())
    assert callback.report.zeros == round(0.8 * 1024)


def test_pruner_is_named_missing_before_the_fit():
    """Reading the pruner too early must say when it exists."""
    with pytest.raises(UsageError, match="when the fit starts"):
        _ = pruning().pruner

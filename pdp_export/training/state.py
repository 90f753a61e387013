"""Where a run is: everything that a checkpoint must hold besides the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pdp_export.errors import FileError, UsageError
from pdp_export.training.checkpoints import Snapshot
from pdp_export.training.randomness import RandomState
from pdp_export.training.records import EpochRecord
from pdp_export.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from pdp_export.pruning import Pruner

_PARTS = ("model", "random", "optimizer", "pruner", "average", "process")


@dataclass(frozen=True)
class Trained:
    """All that changes while training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    pruner: Pruner | None
    average: WeightAverage | None


@dataclass
class RunState:
    """Counters of a run: `consumed` batches of `epoch` are done, `step` batches in all."""

    epoch: int = 0
    consumed: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    history: list[EpochRecord] = field(default_factory=list)
    random: RandomState = field(default_factory=RandomState.snapshot)


def take(state: RunState, trained: Trained, others: Sequence[bytes] = ()) -> Snapshot:
    """Return the whole state of the run as tensors and JSON values.

    Args:
        state: The counters, and the random state of process 0.
        trained: Model, optimizer, pruner and average.
        others: The random states of the other processes, from process 1 on.

    Raises:
        UsageError: when the model's state holds something else than tensors.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": _plain(trained.model), "random": state.random.tensors}
    meta: dict[str, Any] = {
        "epoch": state.epoch,
        "consumed": state.consumed,
        "step": state.step,
        "loss_sum": state.loss_sum,
        "seconds": state.seconds,
        "history": [record.model_dump(mode="json") for record in state.history],
        "random": state.random.meta,
        "optimizer": {},
    }
    parts["optimizer"] = {}
    for index, values in trained.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                parts["optimizer"][f"{index}.{key}"] = value
            else:
                meta["optimizer"][f"{index}.{key}"] = value
    if trained.pruner is not None:
        pruning = trained.pruner.state_dict()
        parts["pruner"], meta["pruner"] = pruning["tensors"], pruning["meta"]
    if trained.average is not None:
        parts["average"], meta["average"] = trained.average.state_dict()
    parts["process"] = {
        str(rank): torch.frombuffer(bytearray(content), dtype=torch.uint8) for rank, content in enumerate(others, 1)
    }
    return Snapshot({f"{part}/{name}": value for part, items in parts.items() for name, value in items.items()}, meta)


def restore(snapshot: Snapshot, trained: Trained, rank: int = 0) -> RunState:
    """Put model, optimizer, pruner and average back; return the counters, with the random state of process `rank`.

    The random state is put back by the loop.

    Raises:
        FileError: when the snapshot does not fit the model.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, value in snapshot.tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    meta = snapshot.meta
    try:
        trained.model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise FileError("the checkpoint does not fit the model", where="checkpoint") from error
    values: dict[int, dict[str, Any]] = {}
    for name, item in [*parts["optimizer"].items(), *meta["optimizer"].items()]:
        index, _, key = name.partition(".")
        values.setdefault(int(index), {})[key] = item
    groups = trained.optimizer.state_dict()["param_groups"]
    trained.optimizer.load_state_dict({"state": values, "param_groups": groups})
    if trained.pruner is not None:
        trained.pruner.load_state_dict({"meta": meta["pruner"], "tensors": parts["pruner"]})
    if trained.average is not None:
        trained.average.load_state_dict(parts["average"], meta["average"])
    own = parts["process"].get(str(rank))
    return RunState(
        epoch=meta["epoch"],
        consumed=meta["consumed"],
        step=meta["step"],
        loss_sum=meta["loss_sum"],
        seconds=meta["seconds"],
        history=[EpochRecord.model_validate(record) for record in meta["history"]],
        random=(
            RandomState(parts["random"], meta["random"])
            if own is None
            else RandomState.from_bytes(own.numpy().tobytes())
        ),
    )


def _plain(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the model's state holds {name}, a {type(value).__name__}: checkpoints hold tensors only",
                where=name,
                hint="register it as a buffer, or drop get_extra_state()",
            )
    return state

"""What each of torchrun's processes does in test_processes.py: every scenario in turn; its findings as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdp_export.errors import PdpExportError
from pdp_export.pruning import Pruner, Unstructured
from pdp_export.training.processes import muster
from pdp_export.training.sharding import part_of
from tests.training.nets import Classify, Data, dropout_net, fit, fixed_data, masked, noisy_data, plain_net, weights

RANK = int(os.environ["RANK"])


class StopError(Exception):
    """Stands for a killed run."""


class Stopping(Classify):
    """Stops every process at the same batch."""

    def __init__(self, at: int) -> None:
        self.left = at

    def loss(self, outputs: Any, target: Any) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise StopError
        return super().loss(outputs, target)


def plain(folder: Path) -> dict[str, Any]:
    """Batches in a fixed order, so that the same steps can be computed in one process."""
    model = plain_net()
    if RANK:
        with torch.no_grad():
            model[0].weight.add_(1)  # process 0's weights count
    pruner = masked(model)
    result = fit(folder, model, pruner, fixed_data())
    return {"state": _listed(model), "losses": [record.loss for record in result.history], "steps": result.steps,
            "metric": result.metric, "files": sorted(path.name for path in folder.glob("*"))}  # fmt: skip


def noisy(folder: Path, objective: Any = None) -> dict[str, Any]:
    """Everything that draws random numbers, and everything that keeps state."""
    model = dropout_net()
    objective = objective or Classify()
    result = fit(folder, model, masked(model), objective=objective, accumulate=2, ema=0.9, checkpoint_every_steps=1)
    history = [record.model_dump(mode="json", exclude={"seconds"}) for record in result.history]
    return {"state": _listed(model), "history": history, "resumed_at": result.resumed_at}


def resumed(folder: Path) -> dict[str, Any]:
    """The same, stopped in the middle of the second epoch and gone on with."""
    try:
        noisy(folder, Stopping(5))
    except StopError:
        torch.randn(5 + RANK)
    return noisy(folder)


def shares(_: Path) -> dict[str, Any]:
    """Which samples this process sees in two epochs of one loader, and its next random number."""
    from pdp_export.training.randomness import seed_epoch

    class Numbers(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 21

        def __getitem__(self, index: int) -> int:
            return index

    loader = part_of(torch.utils.data.DataLoader(Numbers(), 2, shuffle=True), muster())
    epochs = []
    for epoch in range(2):
        seed_epoch(3, epoch, loader)
        epochs.append([number for batch in loader for number in batch.tolist()])
    return {"epochs": epochs, "draw": float(torch.rand(())), "batches": len(loader)}  # type: ignore[arg-type]


def drifting(folder: Path) -> dict[str, Any]:
    """A pruner that computes something else in one process."""

    class Drifting(Pruner):
        def step(self, progress: float | None = None) -> None:
            super().step(progress)
            self.masks[0].threshold.add_(RANK)

    model = plain_net()
    return fit(folder, model, Drifting(model, Unstructured(0.5), prune_first=True), fixed_data()).model_dump()


def nan(folder: Path) -> dict[str, Any]:
    """Data that is NaN in one process only."""
    data = fixed_data()
    data.train[3][0].fill_(float("nan"))
    return fit(folder, plain_net(), None, data).model_dump()


def unused(folder: Path) -> dict[str, Any]:
    """A parameter that takes no part in the loss."""
    model = plain_net()
    model[0].register_parameter("spare", nn.Parameter(torch.zeros(3)))
    return fit(folder, model, None, fixed_data()).model_dump()


def few(folder: Path) -> dict[str, Any]:
    """Fewer batches than processes."""
    return fit(folder, plain_net(), None, Data(fixed_data().train[:1], noisy_data().validation)).model_dump()


def _listed(model: nn.Module) -> dict[str, list[float]]:
    return {name: value.double().flatten().tolist() for name, value in weights(model).items()}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    scenario.__name__: scenario for scenario in (plain, noisy, resumed, shares, drifting, nan, unused, few)
}


def main(folder: Path) -> None:
    """Run every scenario; what an error of ours says is a finding as well."""
    found: dict[str, Any] = {}
    for name, scenario in SCENARIOS.items():
        try:
            found[name] = scenario(folder / name)
        except PdpExportError as error:
            found[name] = {"error": type(error).__name__, "what": error.what}
    (folder / f"rank-{RANK}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

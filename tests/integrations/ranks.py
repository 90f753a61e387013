"""What each process does in test_distributed.py: ``torchrun ranks.py FOLDER CASE...`` writes one JSON per rank."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pdp_export.errors import UsageError
from pdp_export.pruning import NM, Channel, Pruner, Schedule, Unstructured

STEPS = 12
INPUTS = torch.zeros(2, 3, 8, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def fingerprint(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def train(model: nn.Module, called: nn.Module, pruner: Pruner, views: int = 1) -> None:
    """Every rank sees other batches; `views` forward passes share one backward pass."""
    torch.manual_seed(100 + distributed.get_rank())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        outputs = [called(torch.randn(4, 3, 8, 8)) for _ in range(views)]
        sum(F.cross_entropy(output, torch.randint(0, 4, (4,))) for output in outputs).backward()
        optimizer.step()
        pruner.step(step / STEPS)


def same_on_all_ranks(pattern, after: bool = False, views: int = 1) -> dict[str, str]:
    """Train under DDP, the Pruner built before or after wrapping; return what must agree."""
    model = net()
    if after:
        called = DistributedDataParallel(model)
    pruner = Pruner(model, pattern, Schedule(0.1, 0.7), (INPUTS,))
    if not after:
        called = DistributedDataParallel(model)
    train(model, called, pruner, views)
    state = pruner.state_dict()
    masks = fingerprint([*(mask.soft() for mask in pruner.masks), *state["tensors"].values()])
    report = pruner.harden()
    weights = fingerprint(model.parameters())
    F.cross_entropy(called(torch.randn(4, 3, 8, 8)), torch.randint(0, 4, (4,))).backward()
    gradients = fingerprint(parameter.grad for parameter in model.parameters())
    return {"masks": masks, "weights": weights, "gradients": gradients, "zeros": str(report.zeros)}


def refusal(action) -> dict[str, str]:
    try:
        action()
    except UsageError as error:
        return {"refused": str(error)}
    return {"refused": ""}


def fsdp2_before() -> dict[str, str]:
    model = net()
    fully_shard(model)
    return refusal(lambda: Pruner(model, Unstructured(0.5)))


def fsdp2_after() -> dict[str, str]:
    model = net()
    pruner = Pruner(model, Unstructured(0.5))
    fully_shard(model)
    return refusal(lambda: pruner.step(0.5))


def fsdp1_after() -> dict[str, str]:
    model = net()
    pruner = Pruner(model, Unstructured(0.5))
    FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    return refusal(lambda: pruner.step(0.5))


def lightning() -> dict[str, str]:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    from pdp_export.integrations import LightningPruning

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, batch, _index):
            inputs, target = batch
            return F.cross_entropy(self.net(inputs), target)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    torch.manual_seed(3)
    data = DataLoader(TensorDataset(torch.randn(48, 3, 8, 8), torch.randint(0, 4, (48,))), batch_size=4)
    module = Module()
    pruning = LightningPruning(lambda module: Pruner(module.net, Unstructured(0.7)))
    switches = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, callbacks=[pruning], **switches)
    trainer.fit(module, data)
    return {"weights": fingerprint(module.parameters()), "zeros": str(pruning.report.zeros)}


CASES = {
    "unstructured": lambda: same_on_all_ranks(Unstructured(0.7)),
    "nm": lambda: same_on_all_ranks(NM(1, 4)),
    "channel": lambda: same_on_all_ranks(Channel(0.5, align=1)),
    "built after wrapping": lambda: same_on_all_ranks(Unstructured(0.7), after=True),
    "two views": lambda: same_on_all_ranks(Unstructured(0.7), views=2),
    "two views, channel": lambda: same_on_all_ranks(Channel(0.5, align=1), views=2),
    "fsdp2 before": fsdp2_before,
    "fsdp2 after": fsdp2_after,
    "fsdp1 after": fsdp1_after,
    "lightning": lightning,
}


def main(folder: str, *cases: str) -> None:
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo")
    found = {}
    for case in cases:
        try:
            found[case] = CASES[case]()
        except Exception as error:
            found[case] = {"failed": f"{type(error).__name__}: {error}"}
    (Path(folder) / f"rank{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

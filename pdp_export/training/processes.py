"""The processes of one run: torchrun starts them, and gloo (with NCCL for CUDA tensors) joins them.

Every process trains; process 0 alone decides, measures and writes. What it decides travels as bytes: JSON and
safetensors, never a pickle. Without torchrun there is one process and nothing travels.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from pdp_export.errors import ProofError, UsageError

# torchrun ends all processes when one fails, so a wait may be as long as an epoch or a validation takes.
_PATIENCE = timedelta(hours=24)
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Crew:
    """All processes of a run, seen from the one with number `rank`; `local` of the `size` are on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process decides and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is only one process."""
        return self.size == 1

    def share(self, content: bytes = b"") -> bytes:
        """Return process 0's bytes, in every process."""
        if self.alone:
            return content
        length = torch.tensor(len(content))
        distributed.broadcast(length, 0)
        tensor = _tensor(content) if self.leads else torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(tensor, 0)
        return content if self.leads else tensor.numpy().tobytes()

    def share_value(self, value: Any = None) -> Any:
        """Return process 0's JSON value, in every process."""
        return value if self.alone else json.loads(self.share(json.dumps(value).encode()))

    def share_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite tensors with process 0's, in place; names and shapes are the same everywhere."""
        if not self.alone:
            for name in sorted(tensors):
                held = tensors[name].detach().cpu().contiguous()
                distributed.broadcast(held, 0)
                tensors[name].detach().copy_(held)

    def gather(self, content: bytes) -> list[bytes]:
        """Return the bytes of every process, by rank, in every process."""
        if self.alone:
            return [content]
        lengths = [torch.tensor(0) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor(len(content)))
        most = max(int(length) for length in lengths)
        padded = [torch.empty(most, dtype=torch.uint8) for _ in range(self.size)]
        distributed.all_gather(padded, _tensor(content.ljust(most, b"\0")))
        return [row.numpy().tobytes()[: int(length)] for row, length in zip(padded, lengths, strict=True)]

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes; NaN if it is NaN in one."""
        if self.alone:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.size

    def agree(self, content: bytes, what: str) -> None:
        """Raise ProofError, in every process, unless all hold the same bytes."""
        first, *others = self.gather(hashlib.sha256(content).digest())
        different = [rank for rank, other in enumerate(others, start=1) if other != first]
        if different:
            raise ProofError(
                f"{what} are not the same in process 0 and in {', '.join(map(str, different))}",
                where="torchrun",
                hint="let the data and model factories build the same model in every process",
            )


def muster() -> Crew:
    """Join the processes that torchrun started and return them; at once when called again, or without torchrun.

    Raises:
        UsageError: when the processes are joined already, and not by gloo for what lies on the processor.
    """
    if not all(name in os.environ for name in _VARIABLES) or int(os.environ["WORLD_SIZE"]) == 1:
        return Crew()
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        atexit.register(leave)
    joined = distributed.get_backend_config()
    if "gloo" not in joined:
        raise UsageError(
            f"the processes are joined by {joined}, which moves no tensors on the processor",
            where="torch.distributed.init_process_group",
            hint='join them with backend="cpu:gloo,cuda:nccl", or leave it to pdp-export',
        )
    rank, size = distributed.get_rank(), distributed.get_world_size()
    return Crew(rank, size, int(os.environ["LOCAL_WORLD_SIZE"]))


def leave() -> None:
    """Leave the other processes; nothing may be shared afterwards."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)

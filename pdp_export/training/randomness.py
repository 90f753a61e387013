"""Random numbers that can be repeated: seeds per epoch, and snapshots of all generators."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdp_export.training.packing import pack, unpack


def seed_epoch(seed: int, epoch: int, loader: Any) -> None:
    """Seed python, numpy, torch and the loader's own generators from (seed, epoch).

    The order of batches then depends on the two numbers alone, not on what ran before.
    """
    torch_seed = _seed_all([seed, epoch])
    batches = getattr(loader, "batch_sampler", None)
    for owner in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(torch_seed)
        set_epoch = getattr(owner, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)


def part_ways(rank: int) -> None:
    """Give process `rank` random numbers of its own, drawn from the state that all processes share until now."""
    common = int(torch.randint(1 << 31, ()))
    _seed_all([common, rank])


def _seed_all(words: list[int]) -> int:
    torch_seed, numpy_seed = (int(word) for word in np.random.SeedSequence(words).generate_state(2))
    random.seed(torch_seed)
    np.random.seed(numpy_seed)
    torch.manual_seed(torch_seed)
    return torch_seed


@dataclass(frozen=True)
class RandomState:
    """The state of python's, numpy's and torch's global generators at one moment."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @classmethod
    def snapshot(cls) -> RandomState:
        """Copy the present state; one tensor for the processor and one per CUDA device."""
        kind, keys, position, has_gauss, gauss = np.random.get_state()
        tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64))}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
        return cls(tensors, {"numpy": [kind, int(position), int(has_gauss), float(gauss)], "python": random.getstate()})

    def to_bytes(self) -> bytes:
        """Return the state as bytes, to be sent or stored."""
        return pack(self.tensors, self.meta)

    @classmethod
    def from_bytes(cls, content: bytes) -> RandomState:
        """Return the state that `to_bytes` wrote."""
        return cls(*unpack(content))

    def restore(self) -> None:
        """Put the generators back into this state."""
        version, keys, gauss = self.meta["python"]
        random.setstate((version, tuple(keys), gauss))
        kind, position, has_gauss, cached = self.meta["numpy"]
        words = self.tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((kind, words, position, has_gauss, cached))
        torch.set_rng_state(self.tensors["torch"])
        cuda = [state for name, state in sorted(self.tensors.items()) if name.startswith("cuda.")]
        if cuda and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all(cuda)

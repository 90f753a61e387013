"""Each process's part of the training batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from pdp_export.errors import DataError
from pdp_export.training.batches import length
from pdp_export.training.processes import Crew
from pdp_export.training.randomness import part_ways


def part_of(loader: Iterable[Any], crew: Crew) -> Iterable[Any]:
    """Return the loader of this process: batches rank, rank + size, ... of the order that all processes share.

    The order is drawn from (seed, epoch), alike everywhere. A DataLoader over a sized dataset then fetches its own
    batches only; of anything else all batches are read and those of the others dropped. What is left when the
    number of batches is no multiple of the number of processes is left out of that epoch.

    Raises:
        DataError: for fewer batches than processes.
    """
    if crew.alone:
        return loader
    batches = length(loader, "train")
    if batches < crew.size:
        raise DataError(
            f"{batches} training batches cannot be shared by {crew.size} processes",
            where="data.factory: train",
            hint="use smaller batches or fewer processes",
        )
    whole = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    if whole and isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        return _own_batches(loader, crew)
    return EveryNth(loader, crew)


class EveryNth:
    """Every n-th batch of any loader."""

    def __init__(self, loader: Iterable[Any], crew: Crew) -> None:
        self.loader, self.crew = loader, crew
        self.sampler = getattr(loader, "sampler", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)
        self.generator = getattr(loader, "generator", None)

    def __len__(self) -> int:
        return length(self.loader, "train") // self.crew.size

    def __iter__(self) -> Iterator[Any]:
        mine = len(self) * self.crew.size
        for number, batch in enumerate(self.loader):
            if number < mine and number % self.crew.size == self.crew.rank:
                yield batch


class OwnBatches:
    """Every n-th list of indices of a batch sampler.

    The whole order is drawn at once from the common random state; from then on each process has its own, so that
    augmentation and dropout differ between them.
    """

    def __init__(self, batches: Any, crew: Crew) -> None:
        self.batches, self.crew = batches, crew
        self.sampler = getattr(batches, "sampler", None)
        self.generator = getattr(batches, "generator", None)

    def __len__(self) -> int:
        return len(self.batches) // self.crew.size

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.batches)
        part_ways(self.crew.rank)
        return iter(order[self.crew.rank : len(self) * self.crew.size : self.crew.size])


def _own_batches(loader: DataLoader[Any], crew: Crew) -> DataLoader[Any]:
    return DataLoader(
        loader.dataset,
        batch_sampler=OwnBatches(loader.batch_sampler, crew),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        in_order=loader.in_order,
    )

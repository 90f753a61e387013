"""Batches by index from images in memory: normalised, augmented as a whole, channels last."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pruning_quality.data import Data, Part

_PAD = 4
_EVALUATION_BATCH = 500


class Batches:
    """The training batches of one run.

    Epoch e of seed s is the same sequence of the same augmented images for every method: the
    generator starts anew from (s, e), whatever else drew random numbers.
    """

    def __init__(self, data: Data, batch: int, augment: bool, seed: int) -> None:
        self.data, self.batch, self.augment, self.seed = data, batch, augment, seed
        self.images = _padded(data.train.images) if augment else data.train.images
        self.per_epoch = len(data.train.labels) // batch

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) and labels (B,); the last, incomplete batch is left out."""
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        order = torch.randperm(len(self.data.train.labels), generator=generator)
        for chosen in torch.split(order[: self.per_epoch * self.batch], self.batch):
            images = self._crops(chosen, generator) if self.augment else self.images[chosen]
            yield to_input(images, self.data), self.data.train.labels[chosen]

    def _crops(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Cut one window per image out of the padded ones and mirror half of them, in one gather."""
        count, height, width = len(chosen), *self.data.train.images.shape[1:3]
        top = torch.randint(0, 2 * _PAD + 1, (count, 1), generator=generator)
        left = torch.randint(0, 2 * _PAD + 1, (count, 1), generator=generator)
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.arange(width)
        columns = left + torch.where(mirrored, width - 1 - across, across)
        rows = top + torch.arange(height)
        return self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def to_input(images: Tensor, data: Data) -> Tensor:
    """Map (N, H, W, C) uint8 to normalised (N, 3, H, W) float32; one channel is repeated."""
    normal = (images.float() - data.mean) / data.std
    return normal.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: torch.nn.Module, part: Part, data: Data) -> float:
    """Return top-1 accuracy in per cent; the model is left in training mode."""
    model.eval()
    right = 0
    for images, labels in zip(
        torch.split(part.images, _EVALUATION_BATCH), torch.split(part.labels, _EVALUATION_BATCH), strict=True
    ):
        right += int((model(to_input(images, data)).argmax(1) == labels).sum())
    model.train()
    return 100 * right / len(part.labels)


def _padded(images: Tensor) -> Tensor:
    return F.pad(images.permute(0, 3, 1, 2), [_PAD] * 4).permute(0, 2, 3, 1).contiguous()

"""The networks that are trained: their weights count here, not what they learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet50

_CLASSES = 10
_TOKENS = 32


@dataclass(frozen=True)
class Subject:
    """One network and its batch; `inputs` describes them for the record, `blocks` is how often it is timed."""

    name: str
    build: Callable[[], nn.Module]
    batch: int
    inputs: str
    optimizer: str
    sample: Callable[[int], Tensor]
    blocks: int

    def model(self) -> nn.Module:
        """Build the network with the same random weights each time, in training mode."""
        torch.manual_seed(0)
        return self.build().train()

    def data(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return one random batch of inputs and labels."""
        torch.manual_seed(1)
        return self.sample(batch), torch.randint(0, _CLASSES, (batch,))

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer that such a network is usually trained with."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(model.parameters(), lr=1e-5)
        return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> None:
    """Run forward pass, backward pass and optimizer once."""
    optimizer.zero_grad()
    torch.autograd.backward(F.cross_entropy(model(data[0]), data[1]))
    optimizer.step()


class _Classifier(nn.Module):
    """A transformer encoder with a classifier on its first token."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(width, _CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, T) token numbers to (N, classes) logits."""
        logits: Tensor = self.classifier(self.encoder(input_ids=tokens).last_hidden_state[:, 0])
        return logits


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig()  # base: 12 layers, width 768
    return _Classifier(BertModel(config, add_pooling_layer=False), config.hidden_size)


def _channels_last(model: nn.Module) -> nn.Module:
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _images(size: int) -> Callable[[int], Tensor]:
    return lambda batch: torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "mobilenet_v1-32",
            lambda: _channels_last(mobilenet_v1(_CLASSES)),
            64,
            "3x32x32 images",
            "sgd",
            _images(32),
            20,
        ),
        Subject(
            "mobilenet_v1-96",
            lambda: _channels_last(mobilenet_v1(_CLASSES)),
            64,
            "3x96x96 images",
            "sgd",
            _images(96),
            6,
        ),
        Subject("resnet50-64", lambda: _channels_last(resnet50(_CLASSES)), 64, "3x64x64 images", "sgd", _images(64), 4),
        Subject(
            "bert_base",
            _bert,
            16,
            f"{_TOKENS} tokens",
            "adamw",
            lambda batch: torch.randint(0, 30_000, (batch, _TOKENS)),
            4,
        ),
    )
}

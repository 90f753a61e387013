"""The sample networks with random weights and pruned ones among them, folded as every converter gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pdp_export.graph.capture import capture
from pdp_export.removal import simplify
from sample_models import bert, densenet, efficientnet_v2, mobilenet_v1, mobilenet_v2, resnet, vision_transformer


@dataclass(frozen=True)
class Subject:
    """A network, and example inputs of two samples."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def image(size: int, samples: int = 2) -> Callable[[], tuple[Tensor, ...]]:
    """Return a maker of random images."""
    return lambda: (torch.randn(samples, 3, size, size),)


def _tokens() -> tuple[Tensor, ...]:
    ids = torch.randint(0, 1000, (2, 24))
    mask = torch.ones_like(ids)
    mask[1, 16:] = 0
    return ids, mask, torch.zeros_like(ids)


def _bert() -> nn.Module:
    """Return a small BERT classifier with random weights: the sample loader needs a folder with trained ones."""
    from transformers import AutoModelForSequenceClassification, BertConfig

    config = BertConfig(
        vocab_size=1000,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=3,
    )
    return bert.Classifier(AutoModelForSequenceClassification.from_config(config))


SUBJECTS = {
    "mobilenet_v1": Subject(lambda: mobilenet_v1.mobilenet_v1(classes=100), image(64)),
    "mobilenet_v2": Subject(lambda: mobilenet_v2.mobilenet_v2(classes=100), image(64)),
    "resnet18": Subject(lambda: resnet.resnet18(classes=100), image(64)),
    "resnet50": Subject(lambda: resnet.resnet50(classes=100), image(64)),
    "resnet_cifar": Subject(resnet.resnet_cifar, image(32)),
    "resnet_small": Subject(lambda: resnet.resnet_cifar(depth=8, width=8), image(32)),
    "densenet_cifar": Subject(densenet.densenet_cifar, image(32)),
    "efficientnet_v2": Subject(efficientnet_v2.efficientnet_v2, image(32)),
    "vision_transformer": Subject(vision_transformer.vision_transformer, image(32)),
    "bert": Subject(_bert, _tokens),
}


def program(name: str, zeros: float) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """Return a seeded network with this share of zeros in every weight of rank >= 2, and its inputs."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]
    model = subject.build().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.dim() > 1 and zeros:
                limit = parameter.abs().flatten().kthvalue(max(1, int(zeros * parameter.numel()))).values
                parameter[parameter.abs() <= limit] = 0
    inputs = subject.inputs()
    return simplify(capture(model, inputs), inputs), inputs

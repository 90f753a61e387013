"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn

from pdp_export.recipe_training import TrainingSection

_MATRIX = 2


def build_optimizer(model: nn.Module, settings: TrainingSection, lr: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum or AdamW, over all trainable parameters.

    Weight decay is for matrices and filters only: biases and normalisation are left alone.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= _MATRIX], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.dim() < _MATRIX], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=settings.momentum, nesterov=settings.momentum > 0)

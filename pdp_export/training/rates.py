"""The learning rate at a step."""

from __future__ import annotations

import math

from pdp_export.recipe_training import TrainingSection

# torch.optim.lr_scheduler.OneCycleLR: the share that rises, first and last rate relative to the highest.
_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4


def learning_rate(settings: TrainingSection, lr: float, step: int, steps: int) -> float:
    """Return the rate of step number `step` (from 0) of `steps`; `lr` is the highest.

    With a warm-up the rate first rises linearly and reaches `lr` at its end; what follows runs over the rest.

    - ``constant``: `lr`.
    - ``cosine``: half a cosine from `lr` to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts).
    - ``one_cycle``: half a cosine from lr / 25 to `lr` over 30 % of the run, another down to lr / 250,000, as
      torch's OneCycleLR (Smith & Topin 2019, arXiv 1708.07120); momentum stays as it is.
    """
    if settings.lr_schedule == "one_cycle":
        return _one_cycle(lr, step, steps)
    warmup = settings.lr_warmup * steps
    if step < warmup:
        return lr * min(1.0, (step + 1) / warmup)
    if settings.lr_schedule == "constant":
        return lr
    return _anneal(lr, 0.0, (step - warmup) / (steps - warmup))


def _one_cycle(lr: float, step: int, steps: int) -> float:
    top, end = _RISE * steps - 1, steps - 1
    if step <= top:
        return _anneal(lr * _FIRST, lr, step / top if top else 0.0)
    return _anneal(lr, lr * _LAST, (step - top) / (end - top))


def _anneal(start: float, end: float, along: float) -> float:
    """Return the value at the share `along` of half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * along))

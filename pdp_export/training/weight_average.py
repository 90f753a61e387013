"""The moving average of the weights: what is measured and handed on, while the weights themselves are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """An exponential moving average of all parameters and floating-point buffers of `model`.

    Update n (from 0) uses the decay ``min(decay, (1 + n) / (10 + n))``, so that the first weights, which were
    hardly trained, do not linger in a short run. Integer buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.values = {name: value.clone() for name, value in self._present().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average; call it after every optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        present = self._present()
        for dtype in {value.dtype for value in present.values()}:
            names = [name for name, value in present.items() if value.dtype is dtype]
            average([self.values[name] for name in names], [present[name] for name in names], None)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average into the model, and the weights that are trained back afterwards, bit for bit."""
        trained = {name: value.clone() for name, value in self._present().items()}
        self.write()
        try:
            yield
        finally:
            self._fill(trained)

    def write(self) -> None:
        """Put the average into the model for good."""
        self._fill(self.values)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values."""
        return dict(self.values), {"updates": self.updates}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Restore what `state_dict` returned for the same model."""
        for name, value in self.values.items():
            value.copy_(tensors[name])
        self.updates = meta["updates"]

    def _present(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        return {name: value.detach() for name, value in state.items() if value.is_floating_point()}

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, value in self._present().items():
            value.copy_(values[name])

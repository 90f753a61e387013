"""Recurrent networks over (steps, batch, features).

Meaning: coremltools ``mil/ops/defs/iOS15/recurrent.py``; `reset_after` and `input_bias` of ``gru`` from iOS 18. The
text leaves two things open that Apple's own tests show: the reset gate of ``gru`` works on the state, before the
product with its weights, unless `reset_after`; and "reverse" gives its states in the order it computes them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import check_size, operator, undocumented

Activation = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Activation] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _activation(name: str) -> Activation:
    if name not in _ACTIVATIONS:
        raise undocumented(f"the activation {name!r} of a recurrent layer")
    return _ACTIVATIONS[name]


@operator("rnn")
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """``h = activation(W_ih x + W_hh h + b)`` at each step; all states (or the last), and the last."""
    function, hidden, states = _activation(activation), initial_h, []
    for step in _projected(x, weight_ih, bias, direction):
        hidden = function(step + hidden @ weight_hh.T)
        states.append(hidden)
    return _sequence(states, output_sequence), hidden


@operator("gru")
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit; weights hold the reset, output and update gates in this order."""
    gate, function = _activation(recurrent_activation), _activation(activation)
    size = weight_hh.shape[1]
    own = torch.zeros(3 * size) if bias is None else bias
    reset_hh, output_hh, update_hh = weight_hh.chunk(3)
    reset_b, output_b, update_b = own.chunk(3)
    hidden, states = initial_h, []
    for step in _projected(x, weight_ih, input_bias, direction):
        reset_x, output_x, update_x = step.chunk(3, -1)
        reset = gate(reset_x + hidden @ reset_hh.T + reset_b)
        update = gate(update_x + hidden @ update_hh.T + update_b)
        inner = reset * (hidden @ output_hh.T + output_b) if reset_after else (reset * hidden) @ output_hh.T + output_b
        hidden = (1 - update) * function(output_x + inner) + update * hidden
        states.append(hidden)
    return _sequence(states, output_sequence), hidden


@operator("lstm")
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory; weights hold the input, forget, output and cell gates in this order."""
    gates = (_activation(recurrent_activation), _activation(cell_activation), _activation(activation))
    if direction != "bidirectional":
        return _lstm(
            x, initial_h, initial_c, weight_ih, weight_hh, bias, peephole, direction, output_sequence, gates, clip
        )
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm without weights for the way back")
    h, c = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    forth = _lstm(x, h[0], c[0], weight_ih, weight_hh, bias, peephole, "forward", output_sequence, gates, clip)
    back = _lstm(
        x, h[1], c[1], weight_ih_back, weight_hh_back, bias_back, peephole_back, "reverse", output_sequence, gates, clip
    )
    sequence = torch.cat([forth[0], back[0].flip(0)], -1)
    return sequence, torch.cat([forth[1], back[1]], -1), torch.cat([forth[2], back[2]], -1)


def _lstm(
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    direction: str,
    output_sequence: bool,
    gates: tuple[Activation, Activation, Activation],
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    gate, inner, outer = gates
    size = weight_hh.shape[1]
    look_in, look_forget, look_out = (torch.zeros(3 * size) if peephole is None else peephole).chunk(3)
    states = []
    for step in _projected(x, weight_ih, bias, direction):
        enter, forget, leave, fresh = (step + hidden @ weight_hh.T).chunk(4, -1)
        kept = gate(forget + look_forget * cell) * cell
        cell = kept + gate(enter + look_in * cell) * inner(fresh)
        cell = cell if clip is None else cell.clamp(-clip, clip)
        hidden = gate(leave + look_out * cell) * outer(cell)
        states.append(hidden)
    return _sequence(states, output_sequence), hidden, cell


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None, direction: str) -> tuple[Tensor, ...]:
    """Return ``W x + b`` of every step, in the order of the direction."""
    if direction not in ("forward", "reverse"):
        raise ValueError(f"unknown direction {direction!r}")
    if not len(x):
        raise ValueError("a sequence of no steps")
    check_size([*x.shape[:2], weight.shape[0]])
    steps = torch.nn.functional.linear(x, weight, bias)
    return steps.unbind(0) if direction == "forward" else steps.flip(0).unbind(0)


def _sequence(states: list[Tensor], every: bool) -> Tensor:
    return torch.stack(states) if every else states[-1][None]

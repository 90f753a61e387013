"""What is known of every channel of a program: its constant value, and whether anything needs it.

Two passes over the captured program. Forward, constants: a channel without weights emits its bias, which
activations turn into another constant, and a known zero silences what it is multiplied with. Backward,
needs: an element is needed when a change of it could change an output. A channel is *live* where it is
needed and not constant; everything else may go. An operator without a rule knows no constants and needs all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import GraphModule, Node

from pdp_export.graph.facts import grids
from pdp_export.graph.nodes import is_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

Lookup = Callable[[str], Tensor]
"""From a fully qualified name to the tensor whose values count."""

Parts = list[Tensor | None]
"""The grids of a node with several results (a split); None for a result that is no tensor."""

Grid = Tensor | Parts

Forward = Callable[["Facts", Node], Grid | None]
Backward = Callable[["Facts", Node, Grid], "Iterable[tuple[Node, Tensor]]"]


@dataclass(frozen=True)
class Transfer:
    """How one family of operators passes facts on.

    `forward` returns the constants of the result. `backward` yields what the needs of the result mean for
    inputs; an input that it does not yield is not needed by this node.
    """

    forward: Forward
    backward: Backward


@dataclass
class Facts:
    """The facts of a program in float64.

    `constants[node]` is a float64 grid, NaN where the value depends on the input; `needs[node]` a boolean
    grid. Both have one entry per result for a node with several.
    """

    module: GraphModule
    lookup: Lookup
    constants: dict[Node, Grid] = field(default_factory=dict)
    needs: dict[Node, Grid] = field(default_factory=dict)

    def constant(self, node: Node) -> Tensor:
        """Return the constants of a node that is one tensor."""
        grid = self.constants.get(node)
        return grid if isinstance(grid, Tensor) else grids.unknown(node)

    def need(self, node: Node) -> Tensor:
        """Return the needs of a node that is one tensor."""
        grid = self.needs.get(node)
        return grid if isinstance(grid, Tensor) else grids.filled(node, said=False)

    def live(self, node: Node, axis: int, count: int) -> Tensor:
        """Return which of the `count` entries along `axis` are needed and depend on the input, (count,)."""
        return grids.line(self.need(node) & grids.varies(self.constant(node)), axis, count)

    def live_along(self, node: Node, axes: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        """Return the same along several axes at once, shape `sizes`."""
        return grids.lines(self.need(node) & grids.varies(self.constant(node)), axes, sizes)

    def add_need(self, node: Node, need: Tensor) -> None:
        """Note a further need of a node that is one tensor."""
        earlier = self.needs.get(node)
        self.needs[node] = grids.compressed(need | earlier if isinstance(earlier, Tensor) else need)

    def add_part_need(self, node: Node, part: int, need: Tensor) -> None:
        """Note a further need of one result of a node with several."""
        parts = self.needs.setdefault(node, [None] * len(node.meta["val"]))
        if isinstance(parts, list):
            earlier = parts[part]
            parts[part] = grids.compressed(need if earlier is None else need | earlier)


def everything(node: Node) -> Iterator[tuple[Node, Tensor]]:
    """Yield a need of all elements of all inputs: what to assume of an operator without a rule."""
    for source in node.all_input_nodes:
        if is_tensor(source):
            yield source, grids.filled(source, said=True)

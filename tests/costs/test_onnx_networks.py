"""Networks that are only timed: the same function, and no word where the older exporter gives up."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from pdp_export.costs.onnx_networks import quick_onnx
from pdp_export.graph.capture import capture
from pdp_export.removal.precision import narrowed, widened

X = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Normalised(nn.Module):
    """BatchNorm that nothing folds, and means over images and over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(torch.relu(self.conv(x)))
        return x.mean((2, 3), keepdim=True), x.mean(1)


def test_file_computes_what_the_graph_does() -> None:
    """A plan would be chosen by the time of another network."""
    module = narrowed(widened(capture(Normalised().eval(), (X,))))
    expected = module(X)
    content = quick_onnx(module, (X,))
    assert content is not None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    for new, old in zip(found, expected, strict=True):
        np.testing.assert_allclose(new, old.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_written_is_no_error() -> None:
    """The newer exporter takes over then."""
    module = torch.fx.symbolic_trace(nn.Identity())
    output = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(output):
        unknown = module.graph.call_function(torch.ops.aten.special_bessel_j0.default, (output.args[0],))
    output.args = (unknown,)
    module.recompile()
    assert quick_onnx(module, (X,)) is None

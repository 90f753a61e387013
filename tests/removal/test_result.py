"""What removal returns: gradients of the masked network, and a file that needs nobody's source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pdp_export.graph.archive import save_program
from pdp_export.removal import remove_channels
from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import Macs
from pdp_export.removal.proof import relative_difference
from pdp_export.removal.simplification import prepare
from tests.removal.networks import kill, randomised
from tests.removal.test_narrowing import Stream

DEAD = [1, 4]


def images() -> Tensor:
    return torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)


def test_gradients_of_the_input() -> None:
    """BatchNorm folded, constants merged, gathers in place: the slope is that of the masked network all the same."""
    model = randomised(Stream(16))
    model.a.weight.data[:, [0, 1, 5]] = 0
    model.a.weight.data[[1, 2]] = 0
    kill(model.b, 0, 3, 5)
    edited, _ = remove_from(prepare(model, (torch.randn(2, 3, 9, 9),), None), (1,), Macs(), stage="test")
    first, second = images(), images()
    second.data.copy_(first.data)
    model.double().eval()(first).square().sum().backward()
    edited(second).square().sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    assert relative_difference(first.grad, second.grad) <= 1e-12


def test_gradients_of_what_remains() -> None:
    """Fine-tuning behind removal starts where fine-tuning before it would: every kept weight has the same gradient."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Tanh(), nn.Flatten(),
        nn.Linear(6 * 49, 3),
    )  # fmt: skip
    kill(model[0], *DEAD)
    model[2].weight.data[DEAD] = 0
    model[2].bias.data[DEAD] = 0
    edited, _ = remove_from(prepare(model, (torch.randn(2, 3, 9, 9),), None), (1,), Macs(), stage="test")
    x = images()
    model.double()(x).square().sum().backward()
    edited(x).square().sum().backward()
    kept = [channel for channel in range(6) if channel not in DEAD]
    pixels = torch.arange(6 * 49).view(6, 49)[kept].flatten()
    for name, parameter in edited.named_parameters():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        wanted = gradient[:, pixels] if name == "5.weight" else gradient if name == "5.bias" else gradient[kept]
        assert parameter.grad is not None
        assert relative_difference(wanted, parameter.grad) <= 1e-12
    assert set(dict(edited.named_parameters())) == set(dict(model.named_parameters()))


CHILD = """
import sys
from pathlib import Path
from safetensors.torch import load_file
import torch
from pdp_export.graph.archive import load_program
known = load_file("tensors.safetensors")
assert not any(name.startswith("tests") for name in sys.modules)
assert torch.equal(load_program(Path("net.pt2")).module()(known["x"]), known["y"])
"""


def test_reloaded_where_the_source_is_not(tmp_path: Path) -> None:
    """A pickled module asks for the class it was made from; this one runs in another process, in another folder."""
    model = randomised(Stream(16))
    kill(model.b, 0, 3, 5)
    removed = remove_channels(model, (torch.randn(2, 3, 9, 9),), objective="macs", dynamic={0: {0: "batch"}})
    x = torch.randn(3, 3, 9, 9)
    save_program(removed.program, tmp_path / "net.pt2")
    save_file({"x": x, "y": removed.module(x).detach()}, tmp_path / "tensors.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr

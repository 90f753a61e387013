"""The pruner's state in files: exact, and refused when it does not belong to the model at hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pdp_export.errors import FileError
from pdp_export.pruning import Channel, Pruner, Schedule, Unstructured
from pdp_export.pruning.state import load_pruner, save_pruner

INPUTS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def attached(pattern=None) -> Pruner:
    return Pruner(net(), pattern or Unstructured(0.7), Schedule(0.1, 0.6, steps=20), (INPUTS,))


def steps(pruner: Pruner, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        loss = F.cross_entropy(pruner.model(torch.randn(8, 6)), torch.randint(0, 3, (8,)))
        gradients = torch.autograd.grad(loss, list(pruner.model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(pruner.model.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        pruner.step()


@pytest.mark.parametrize("pattern", [Unstructured(0.7), Channel(0.5, align=1)])
def test_training_goes_on_as_if_it_had_not_stopped(tmp_path, pattern):
    """A threshold, count or gate that is not restored gives other weights some steps later."""
    straight = attached(pattern)
    steps(straight, 0, 20)
    stopped = attached(pattern)
    steps(stopped, 0, 11)
    save_pruner(stopped, tmp_path)
    resumed = attached(pattern)
    resumed.model.load_state_dict(stopped.model.state_dict())
    load_pruner(resumed, tmp_path)
    steps(resumed, 11, 20)
    assert resumed.harden() == straight.harden()
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_second_save_replaces_the_first(tmp_path):
    """A pair of files from two saves would pass for one state."""
    pruner = attached()
    save_pruner(pruner, tmp_path)
    steps(pruner, 0, 8)
    save_pruner(pruner, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruner.json", "pruner.safetensors"]
    load_pruner(pruner, tmp_path)


def _other_weights(pruner, _folder):
    steps(pruner, 8, 9)
    return pruner


def _other_pattern(_pruner, _folder):
    return attached(Unstructured(0.6))


def _no_file(pruner, folder):
    (folder / "pruner.json").unlink()
    return pruner


def _no_tensors(pruner, folder):
    (folder / "pruner.safetensors").unlink()
    return pruner


def _cut_tensors(pruner, folder):
    path = folder / "pruner.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    return pruner


def _no_json(pruner, folder):
    (folder / "pruner.json").write_bytes(b"\x80\x04")
    return pruner


def _a_list(pruner, folder):
    (folder / "pruner.json").write_text("[]")
    return pruner


def _foreign(pruner, folder):
    (folder / "pruner.json").write_text('{"format": "another tool 3"}')
    return pruner


def _edited(folder, change):
    path = folder / "pruner.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


def _lost_numbers(pruner, folder):
    _edited(folder, lambda state: state["meta"].pop("clock"))
    return pruner


def _wrong_numbers(pruner, folder):
    _edited(folder, lambda state: state.update(meta=None))
    return pruner


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_weights, "other weights"),
        (_other_pattern, "another pruner"),
        (_no_file, "cannot be read"),
        (_no_tensors, "cannot be read"),
        (_cut_tensors, "damaged"),
        (_no_json, "cannot be read"),
        (_a_list, "is not a"),
        (_foreign, "is not a"),
        (_lost_numbers, "incomplete"),
        (_wrong_numbers, "incomplete"),
    ],
)
def test_what_does_not_belong_here_is_refused(tmp_path, damage, message):
    """Thresholds over foreign weights train on without any sign of it, and damage must not be a traceback."""
    pruner = attached()
    steps(pruner, 0, 8)
    save_pruner(pruner, tmp_path)
    pruner = damage(pruner, tmp_path)
    with pytest.raises(FileError, match=message):
        load_pruner(pruner, tmp_path)

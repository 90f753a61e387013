"""The teacher's term of the loss: its value, its gradient, and what cannot be distilled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pdp_export.errors import FileError, RecipeError
from pdp_export.recipe_training import DistillationSection
from pdp_export.training.distillation import Distiller
from tests.training.nets import dropout_net, fit, fixed_data, masked, plain_net, same, weights


def make(teacher: nn.Module, names: tuple[str, ...] = ("logits",), **section: Any) -> Distiller:
    return Distiller(teacher, DistillationSection(**section), names, names[0])


def blended(distiller: Distiller, student: nn.Module, inputs: Tensor, task: float = 0.0) -> Tensor:
    outputs, hidden = distiller.forward(student, student, (inputs,))
    return distiller.loss(torch.tensor(task), outputs, hidden, distiller.teacher, (inputs,))


@given(
    temperature=st.floats(0.5, 8), weight=st.floats(0, 1), classes=st.integers(2, 6), seed=st.integers(0, 50),
)  # fmt: skip
def test_the_loss_is_the_formula(temperature: float, weight: float, classes: int, seed: int):
    """Pins swapped arguments of the divergence, a missing T^2, or a mean over classes."""
    torch.manual_seed(seed)
    teacher, student, inputs = nn.Linear(3, classes), nn.Linear(3, classes), torch.randn(5, 3)
    p = torch.softmax(teacher(inputs) / temperature, 1)
    q = torch.softmax(student(inputs) / temperature, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    expected = (1 - weight) * 2.5 + weight * temperature**2 * divergence
    found = blended(make(teacher, weight=weight, temperature=temperature), student, inputs, task=2.5)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-5)


def test_positions_are_averaged_and_classes_lie_along_axis_1():
    """Pins a segmentation map whose loss grows with its area."""
    teacher, student = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)
    inputs = torch.randn(2, 2, 1, 1)
    one = blended(make(teacher, weight=1), student, inputs)
    many = blended(make(teacher, weight=1), student, inputs.expand(2, 2, 5, 7).contiguous())
    assert torch.allclose(one, many)


def test_only_the_student_learns():
    """Pins a teacher that is trained along, or whose BatchNorm drifts."""
    teacher, student = dropout_net(), dropout_net()
    before = weights(teacher)
    distiller = make(teacher, weight=1, hidden=("0",))
    student.train()
    blended(distiller, student, torch.randn(4, 3, 6, 6)).backward()
    assert same(weights(teacher), before)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_a_matched_module_adds_its_mean_squared_difference():
    """Pins hidden states that are listed but not compared, or compared with a sum."""
    teacher, student, inputs = plain_net(), plain_net(), torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        student[0].weight.add_(0.1)
        student[3].weight.zero_()
        teacher[3].weight.zero_()
    distiller = make(teacher, weight=0.5, hidden=("0",), hidden_weight=3.0)
    expected = 0.5 * 3.0 * nn.functional.mse_loss(student[0](inputs), teacher[0](inputs))
    assert float(blended(distiller, student, inputs).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


class Two(nn.Module):
    """Logits, boxes and class indices."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.head, self.shared = nn.Linear(6, classes), nn.ReLU()

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.head(self.shared(self.shared(inputs)))
        return logits, logits[:, :1], logits.argmax(1)


_NAMES = ("logits", "score", "index")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"hidden": ("haed",)}, r"'haed', a module that the model does not have \(did you mean .*'head'\?\)"),
        ({"hidden": ("shared",)}, "'shared' runs 2 times"),
        ({"outputs": ("index",)}, r"output 'index' is torch\.int64, not float"),
        ({"outputs": ("score",)}, r"output 'score' has shape \(3, 1\): there are no classes"),
    ],
)
def test_what_cannot_be_distilled_is_refused_before_training(section: dict[str, Any], message: str):
    """Pins an error in the first step of the pruning stage, after the dense training."""
    with pytest.raises(RecipeError, match=message):
        make(Two(), _NAMES, **section).rehearse(Two(), (torch.randn(3, 6),))


@pytest.mark.parametrize("section", [{}, {"hidden": ("head",)}])
def test_a_teacher_of_another_shape_is_refused(section: dict[str, Any]):
    """Pins a broadcast where shapes should be compared."""
    with pytest.raises(RecipeError, match=r"has shape \(3, 4\) in the student and \(3, 5\) in the teacher"):
        make(Two(5), _NAMES, **section).rehearse(Two(), (torch.randn(3, 6),))


def test_a_module_that_returns_no_tensor_is_refused():
    """Pins a traceback out of the mean squared error for a module that returns a tuple."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.two(inputs)[0]

    with pytest.raises(RecipeError, match="module 'two' returns tuple, not one float tensor"):
        make(Wrapped(), hidden=("two",)).rehearse(Wrapped(), (torch.randn(3, 6),))


def test_training_with_a_teacher_resumes_bit_for_bit(tmp_path: Path):
    """Pins a teacher that changes what the random state or the checkpoint must hold."""

    class StopError(Exception):
        pass

    calls = 0

    def stop(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise StopError

    def run(folder: Path, **changes: Any) -> dict[str, Tensor]:
        model = dropout_net()
        teacher = dropout_net()
        fit(folder, model, masked(model), distiller=make(teacher, weight=0.9, hidden=("3",)), **changes)
        return weights(model)

    expected = run(tmp_path / "a")
    with pytest.raises(StopError):
        run(tmp_path / "b", on_progress=stop)
    assert same(run(tmp_path / "b"), expected)
    alone = dropout_net()
    fit(tmp_path / "c", alone, masked(alone))
    assert not same(weights(alone), expected)


def test_a_checkpoint_of_another_teacher_is_foreign(tmp_path: Path):
    """Pins a resumed run that silently learns from somebody else."""
    fit(tmp_path, plain_net(), data=fixed_data(), distiller=make(plain_net()))
    other = plain_net()
    with torch.no_grad():
        other[0].bias.add_(1)
    with pytest.raises(FileError, match="distillation is"):
        fit(tmp_path, plain_net(), data=fixed_data(), distiller=make(other))


def test_mixed_precision_distils(tmp_path: Path):
    """Pins a teacher outside autocast, or a divergence computed in bfloat16."""
    model = dropout_net()
    result = fit(
        tmp_path, model, masked(model), distiller=make(dropout_net(), weight=1.0), precision="bf16-mixed", epochs=1
    )
    assert 0 <= result.history[0].loss < 1

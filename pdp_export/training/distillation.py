"""Distillation: while it is pruned, the model also learns from the dense model's answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.errors import RecipeError, near_misses
from pdp_export.recipe_training import DistillationSection
from pdp_export.tasks.objective import named_outputs

_CLASSES = 1  # the axis of the classes, as in cross-entropy
Forward = Callable[..., Any]


class Distiller:
    """A teacher, and the term that it adds to the loss.

    Loss: ``(1 - weight) * task + weight * (T^2 KL + hidden_weight * MSE)``, with the divergence of the
    student's softened classes from the teacher's, ``KL(softmax(t / T) || softmax(s / T))``, as a mean over all
    positions but the class axis 1 and over the outputs; the MSE is a mean over the hidden modules.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2: the factor T^2 keeps the gradients at one
    scale for every T.

    Args:
        teacher: The dense model; it is put into eval mode and never changed.
        section: Weight, temperature, outputs and hidden modules.
        names: The names of the model's outputs, in order.
        chosen: The output that is compared where the section names none.

    Raises:
        RecipeError: for a hidden module that the teacher does not have, with near misses.
    """

    def __init__(self, teacher: nn.Module, section: DistillationSection, names: Sequence[str], chosen: str) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.section, self.names = section, tuple(names)
        self.outputs = section.outputs or (chosen,)
        self._modules = find_modules(teacher, section.hidden)

    def identity(self) -> dict[str, Any]:
        """Return what two runs must share to be the same: the settings and a hash of the teacher's weights."""
        digest = hashlib.sha256()
        for name, value in self.teacher.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {**self.section.model_dump(mode="json"), "outputs": self.outputs, "teacher": digest.hexdigest()}

    def prepare(self, student: nn.Module, device: torch.device) -> None:
        """Move the teacher to the device where it will be asked, and check the student's module names."""
        find_modules(student, self.section.hidden)
        self.teacher.to(device)

    def rehearse(self, student: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Run teacher and student once, so that whatever does not fit is refused before training.

        Raises:
            RecipeError: for a missing module, an output that is no float logits, or shapes that differ.
        """
        with torch.no_grad():
            outputs, hidden = self.forward(student, student, inputs)
            self.loss(torch.zeros(()), outputs, hidden, self.teacher, inputs)

    def forward(self, student: nn.Module, call: Forward, inputs: tuple[Tensor, ...]) -> tuple[Any, dict[str, Tensor]]:
        """Return the outputs of ``call(*inputs)`` and those of the student's hidden modules."""
        with watched(find_modules(student, self.section.hidden)) as hidden:
            outputs = call(*inputs)
        return outputs, single(hidden, self.section.hidden)

    def loss(
        self, task: Tensor, outputs: Any, hidden: Mapping[str, Tensor], teach: Forward, inputs: tuple[Tensor, ...]
    ) -> Tensor:
        """Return the blend of the task's loss and the teacher's; `teach` is how the teacher is called.

        Raises:
            RecipeError: for an output that is no float logits, or shapes that differ.
        """
        section = self.section
        with torch.no_grad(), watched(self._modules) as seen:
            answers = named_outputs(teach(*inputs), self.names)
        wanted = single(seen, section.hidden)
        given = named_outputs(outputs, self.names)
        logits = [self._logits(name, given[name], answers[name]) for name in self.outputs]
        term = torch.stack(logits).mean()
        if section.hidden:
            distances = [_distance(name, hidden[name], wanted[name]) for name in section.hidden]
            term = term + section.hidden_weight * torch.stack(distances).mean()
        return (1 - section.weight) * task + section.weight * term

    def _logits(self, name: str, student: Tensor, teacher: Tensor) -> Tensor:
        where = f"output {name!r}"
        _check_pair(where, student, teacher)
        if student.dim() <= _CLASSES or student.shape[_CLASSES] == 1:
            raise RecipeError(
                f"{where} has shape {tuple(student.shape)}: there are no classes along axis {_CLASSES} to compare",
                where="distillation.outputs",
                hint="name outputs that are logits (N, classes, ...), or match modules with distillation.hidden",
            )
        heat = self.section.temperature
        divergence = F.kl_div(
            F.log_softmax(student.float() / heat, dim=_CLASSES),
            F.log_softmax(teacher.float() / heat, dim=_CLASSES),
            reduction="none",
            log_target=True,
        )
        return heat * heat * divergence.sum(_CLASSES).mean()


def find_modules(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of these names.

    Raises:
        RecipeError: for a name that the model does not have, with near misses.
    """
    if not names:
        return {}
    every = model.named_modules()
    known = {name: module for name, module in every if name and "parametrizations" not in name.split(".")}
    for name in names:
        if name not in known:
            raise RecipeError(
                f"distillation.hidden names {name!r}, a module that the model does not have{near_misses(name, known)}",
                where="distillation.hidden",
                hint="use a name of model.named_modules()",
            )
    return {name: known[name] for name in names}


@contextmanager
def watched(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Collect the outputs of modules during the block, one entry per call."""
    seen: dict[str, list[Any]] = {name: [] for name in modules}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen[name].append(output)

    handles = [module.register_forward_hook(watch(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def single(seen: Mapping[str, list[Any]], names: Sequence[str]) -> dict[str, Tensor]:
    """Return the one output of each module.

    Raises:
        RecipeError: for a module that did not run exactly once, or returned something else than a float tensor.
    """
    for name in names:
        if len(seen[name]) != 1:
            raise RecipeError(
                f"module {name!r} runs {len(seen[name])} times in a forward pass, so it has no single output",
                where="distillation.hidden",
                hint="name a module that runs once",
            )
        value = seen[name][0]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise RecipeError(
                f"module {name!r} returns {kind}, not one float tensor",
                where="distillation.hidden",
                hint="name a module inside it that returns one tensor",
            )
    return {name: seen[name][0] for name in names}


def _distance(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    _check_pair(f"module {name!r}", student, teacher)
    return F.mse_loss(student.float(), teacher.float())


def _check_pair(what: str, student: Tensor, teacher: Tensor) -> None:
    if not student.is_floating_point():
        raise RecipeError(f"{what} is {student.dtype}, not float: it cannot be distilled", where="distillation")
    if student.shape != teacher.shape:
        raise RecipeError(
            f"{what} has shape {tuple(student.shape)} in the student and {tuple(teacher.shape)} in the teacher",
            where="distillation",
            hint="compare outputs and modules of equal shape only",
        )

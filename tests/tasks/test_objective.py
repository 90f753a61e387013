"""Loss, metric and predictions of models with one output or several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pdp_export.errors import RecipeError
from pdp_export.recipe import Recipe
from pdp_export.tasks.objective import accuracy, build_objective, example_inputs, named_outputs

_LOGITS = torch.tensor([[0.1, 2.0, 0.3], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_TARGET = torch.tensor([1, 2, 2])


def test_the_defaults_are_cross_entropy_and_accuracy(recipe_of: Callable[..., Recipe]):
    """Pins a default that is not the textbook one."""
    objective = build_objective(recipe_of())
    assert torch.equal(objective.loss(_LOGITS, _TARGET), nn.functional.cross_entropy(_LOGITS, _TARGET))
    assert objective.scores(_LOGITS, _TARGET).tolist() == [1.0, 0.0, 1.0]
    assert objective.predictions(_LOGITS).tolist() == [1, 0, 2]
    assert objective.classifies


@given(classes=st.integers(2, 6), count=st.integers(1, 20), seed=st.integers(0, 99))
def test_accuracy_counts_the_samples_whose_largest_logit_is_the_target(classes: int, count: int, seed: int):
    """Pins an accuracy that looks along the wrong axis."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    target = torch.randint(classes, (count,), generator=generator)
    expected = [
        float(row.index(max(row)) == truth) for row, truth in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    assert accuracy(logits, target).tolist() == expected


_BOTH: list[tuple[Any, str]] = [
    ((torch.zeros(3, 2), _LOGITS), "a tuple"),
    ([torch.zeros(3, 2), _LOGITS], "a list"),
    ({"boxes": torch.zeros(3, 2), "logits": _LOGITS}, "a dict"),
    ({"loc": torch.zeros(3, 2), "cls": _LOGITS}, "a dict of other names"),
]


@pytest.mark.parametrize("outputs", [outputs for outputs, _ in _BOTH], ids=[name for _, name in _BOTH])
def test_the_chosen_output_of_several_is_judged(recipe_of: Callable[..., Recipe], outputs: Any):
    """Pins a metric computed on the first output although task.output names another."""
    objective = build_objective(recipe_of(outputs=["boxes", "logits"], task={"output": "logits"}))
    assert objective.scores(outputs, _TARGET).tolist() == [1.0, 0.0, 1.0]
    assert torch.equal(objective.select(outputs), _LOGITS)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (torch.zeros(2), "returns 1 outputs (Tensor), the recipe names 2 (boxes, logits)"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "returns 3 outputs"),
        ((torch.zeros(2), "text"), "returns 2 outputs (Tensor, str)"),
        ((torch.zeros(2), (torch.zeros(2),)), "returns 2 outputs (Tensor, tuple)"),
        (None, "returns 1 outputs (NoneType)"),
    ],
)
def test_outputs_that_do_not_match_the_recipe_are_counted(outputs: Any, told: str):
    """Pins a TypeError or a silently unnamed output."""
    with pytest.raises(RecipeError) as caught:
        named_outputs(outputs, ["boxes", "logits"])
    assert told in caught.value.what
    assert caught.value.where == "outputs"


def test_the_models_own_names_in_another_order_are_refused():
    """Pins two outputs that swap their names in every written file."""
    outputs = {"logits": torch.zeros(1), "boxes": torch.ones(1)}
    with pytest.raises(RecipeError, match=r"write outputs: \[logits, boxes\]"):
        named_outputs(outputs, ["boxes", "logits"])
    assert list(named_outputs(outputs, ["logits", "boxes"])) == ["logits", "boxes"]


_CUSTOM = """
def loss(outputs, target): return sum(output.mean() for output in outputs.values()) * target
def metric(outputs, target): return outputs['a'].mean(dim=1) - target
def average(outputs, target): return outputs['a'].mean()
def no_tensor(outputs, target): return 0.5
def per_sample(outputs, target): return outputs['a'].mean(dim=1)
def broken(outputs, target): return outputs['c']
"""


def _custom(recipe_of: Callable[..., Recipe], **task: str) -> Any:
    return build_objective(recipe_of(_CUSTOM, outputs=["a", "b"], task=task))


def _outputs() -> dict[str, Tensor]:
    return {"a": torch.full((4, 2), 3.0), "b": torch.full((4,), 1.0)}


def test_own_functions_see_the_models_whole_output(recipe_of: Callable[..., Recipe]):
    """Pins a multi-head loss that only receives one head."""
    objective = _custom(recipe_of, loss="task.py:loss", metric="task.py:metric")
    assert float(objective.loss(_outputs(), 2.0)) == 8.0
    assert objective.scores(_outputs(), 1.0).tolist() == [2.0] * 4
    assert not objective.classifies


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("average", "returned shape (), not one score per sample"),
        ("no_tensor", "returned float, not one score per sample"),
        ("broken", "task.metric raised KeyError: 'c'"),
    ],
)
def test_a_metric_that_gives_no_score_per_sample_is_refused(recipe_of: Callable[..., Recipe], name: str, told: str):
    """Pins a batch mean taken for a sample's score, which makes every interval wrong."""
    with pytest.raises(RecipeError) as caught:
        _custom(recipe_of, metric=f"task.py:{name}").scores(_outputs(), 0)
    assert told in caught.value.what


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("per_sample", "returned shape (4,), not one number per batch"),
        ("no_tensor", "returned float, not one number per batch"),
        ("broken", "task.loss raised KeyError: 'c'"),
    ],
)
def test_a_loss_that_is_no_number_is_refused(recipe_of: Callable[..., Recipe], name: str, told: str):
    """Pins torch's "grad can be implicitly created only for scalar outputs" in front of a user."""
    with pytest.raises(RecipeError) as caught:
        _custom(recipe_of, loss=f"task.py:{name}").loss(_outputs(), 0)
    assert told in caught.value.what


def test_targets_of_a_wrong_type_blame_the_task_and_not_us(recipe_of: Callable[..., Recipe]):
    """Pins "a fault of pdp-export" when float labels meet the built-in cross-entropy."""
    with pytest.raises(RecipeError, match=r"task\.loss raised RuntimeError"):
        build_objective(recipe_of()).loss(_LOGITS, torch.zeros(3))


def test_an_unknown_name_is_refused_with_near_misses(recipe_of: Callable[..., Recipe]):
    """Pins a KeyError for a misspelt built-in."""
    with pytest.raises(RecipeError, match=r"task\.metric is 'acuracy' \(did you mean 'accuracy'\?\)"):
        build_objective(recipe_of(task={"metric": "acuracy"}))
    with pytest.raises(RecipeError, match=r"task\.loss is 'mse'; allowed: cross_entropy, or module:function"):
        build_objective(recipe_of(task={"loss": "mse"}))


def test_example_inputs_have_the_recipes_shapes_and_types(recipe_of: Callable[..., Recipe]):
    """Pins indices that no embedding accepts, or examples that differ from run to run."""
    inputs = [{"name": "image", "shape": [1, 3, 4, 4]}, {"name": "ids", "shape": [1, 7], "dtype": "int64"}]
    recipe = recipe_of(inputs=inputs)
    image, ids = example_inputs(recipe, batch=5)
    assert (tuple(image.shape), image.dtype) == ((5, 3, 4, 4), torch.float32)
    assert (tuple(ids.shape), ids.dtype) == ((5, 7), torch.int64)
    nn.Embedding(2, 3)(ids)
    assert torch.equal(image, example_inputs(recipe, batch=5)[0])
    assert tuple(example_inputs(recipe)[0].shape) == (1, 3, 4, 4)


def test_label_smoothing_is_torchs_and_leaves_the_metric_alone(recipe_of: Callable[..., Recipe]):
    """Pins a key that is accepted and forgotten, or that changes what is measured."""
    objective = build_objective(recipe_of(training={"label_smoothing": 0.2}))
    expected = nn.functional.cross_entropy(_LOGITS, _TARGET, label_smoothing=0.2)
    assert torch.equal(objective.loss(_LOGITS, _TARGET), expected)
    assert not torch.equal(expected, nn.functional.cross_entropy(_LOGITS, _TARGET))
    assert objective.scores(_LOGITS, _TARGET).tolist() == [1.0, 0.0, 1.0]


def test_label_smoothing_of_the_users_own_loss_is_refused(recipe_of: Callable[..., Recipe]):
    """Pins smoothing that is silently without effect."""
    with pytest.raises(RecipeError, match=r"training\.label_smoothing is 0\.2, and task\.loss is 'task\.py:loss'"):
        recipe_of(training={"label_smoothing": 0.2}, task={"loss": "task.py:loss"})

"""The user's loaders: every mistake of a data factory is named before any training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pdp_export.errors import DataError, RecipeError
from pdp_export.recipe import Recipe
from pdp_export.tasks.data import load_data, unpack

_TWO_INPUTS = [{"name": "ids", "shape": [1, 5], "dtype": "int64"}, {"name": "image", "shape": [1, 3, 4, 4]}]
_GOOD = "(torch.ones(2, 3, 4, 4), torch.zeros(2, dtype=torch.long))"


def _factory(batch: str) -> str:
    return f"def load(): batch = {batch}; return {{'train': [batch], 'validation': [batch]}}\n"


def _refused(recipe: Recipe) -> DataError:
    with pytest.raises(DataError) as caught:
        load_data(recipe)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        (_GOOD, None),
        (f"list({_GOOD})", None),
        ("((torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, 4, 4)), 'any target')", _TWO_INPUTS),
        ("([torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, 4, 4)], {'boxes': 1})", _TWO_INPUTS),
        ("({'image': torch.ones(2, 3, 4, 4), 'x': 0, 'ids': torch.ones(2, 5, dtype=torch.long)}, 0)", _TWO_INPUTS),
    ],
)
def test_tensors_tuples_lists_and_dicts_of_inputs_are_accepted(
    recipe_of: Callable[..., Recipe], batch: str, inputs: list[dict[str, Any]] | None
):
    """Pins a common form of batch that is refused, or whose inputs are taken in the wrong order."""
    recipe = recipe_of(_factory(batch), **({"inputs": inputs} if inputs else {}))
    loaders = load_data(recipe)
    tensors, _ = unpack(next(iter(loaders.train)), [item.name for item in recipe.inputs])
    assert [list(tensor.shape[1:]) for tensor in tensors] == [list(item.shape[1:]) for item in recipe.inputs]
    assert loaders.calibration is loaders.train


def test_torch_loaders_are_accepted_and_the_factory_gets_its_arguments(recipe_of: Callable[..., Recipe]):
    """Pins data.arguments that are ignored, or a batch size that differs from the example shape."""
    source = (
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "def load(batch):\n"
        "    data = TensorDataset(torch.rand(9, 3, 4, 4), torch.zeros(9).long())\n"
        "    return {key: DataLoader(data, batch) for key in ('train', 'validation', 'calibration')}\n"
    )
    loaders = load_data(recipe_of(source, data={"factory": "task.py:load", "arguments": {"batch": 4}}))
    assert [len(target) for _, target in loaders.calibration] == [4, 4, 1]


def test_the_same_seed_gives_the_same_data(recipe_of: Callable[..., Recipe]):
    """Pins a random split that differs between a run and its continuation."""
    recipe = recipe_of(_factory("(torch.rand(2, 3, 4, 4), 0)"), seed=5)
    first = load_data(recipe).train
    torch.rand(3)
    assert torch.equal(next(iter(first))[0], next(iter(load_data(recipe).train))[0])


def test_a_dynamic_axis_may_have_any_size(recipe_of: Callable[..., Recipe]):
    """Pins a check of the example shape against axes that are declared free."""
    inputs = [{"name": "image", "shape": [1, 3, 4, 4], "dynamic": {2: "height", 3: "width"}}]
    load_data(recipe_of(_factory("(torch.ones(7, 3, 9, 2), 0)"), inputs=inputs))


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ("(torch.ones(2, 1, 4, 4), 0)", "'image' has shape (2, 1, 4, 4), the recipe says (1, 3, 4, 4)"),
        ("(torch.ones(2, 3, 4), 0)", "'image' has shape (2, 3, 4)"),
        ("(torch.ones(2, 3, 4, 4).double(), 0)", "'image' is float64, the recipe says float32"),
        ("(torch.ones(2, 3, 4, 4, dtype=torch.uint8), 0)", "'image' is uint8"),
        ("(torch.ones(2, 3, 4, 4).numpy(), 0)", "'image' is a ndarray, not a tensor"),
        ("(None, 0)", "'image' is a NoneType, not a tensor"),
        ("((torch.ones(2, 3, 4, 4), torch.ones(2)), 0)", "the batch holds 2 inputs, the recipe 1 (image)"),
        ("({'pixels': torch.ones(2, 3, 4, 4)}, 0)", "lacks input 'image'; it has ['pixels']"),
        ("torch.ones(2, 3, 4, 4)", "a batch is a Tensor, not a pair (inputs, target)"),
        ("(torch.ones(2, 3, 4, 4),)", "a batch is a tuple of length 1"),
        ("(torch.ones(2, 3, 4, 4), 0, 'weights')", "a batch is a tuple of length 3"),
        ("{'image': torch.ones(2, 3, 4, 4), 'labels': 0}", "a batch is a dict, not a pair"),
    ],
)
def test_a_wrong_batch_is_named_with_what_was_found_and_expected(
    recipe_of: Callable[..., Recipe], batch: str, told: str
):
    """Pins a shape error of a layer, an hour into the run, for a mistake in the data factory."""
    error = _refused(recipe_of(_factory(batch)))
    assert told in error.what
    assert str(error.where).startswith("data.factory")


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("[1, 2]", "returned list, not a mapping"),
        ("None", "returned NoneType, not a mapping"),
        ("{'train': [], 'val': []}", "keys ['train', 'val']"),
        ("{'train': []}", "keys ['train']"),
        ("{'train': [batch], 'validation': [batch], 'clibration': []}", "(did you mean 'calibration' or"),
        ("{'train': [batch], 'validation': []}", "the validation loader is empty"),
        ("{'train': [batch], 'validation': [batch], 'calibration': []}", "the calibration loader is empty"),
        ("{'train': 7, 'validation': [batch]}", "the train loader raised TypeError"),
        ("{'train': (batch for _ in range(9)), 'validation': [batch]}", "the train loader can be read only once"),
        ("{'train': [batch], 'validation': zip([1], [2])}", "the validation loader can be read only once"),
    ],
)
def test_a_wrong_set_of_loaders_is_named(recipe_of: Callable[..., Recipe], returned: str, told: str):
    """Pins a KeyError, an epoch without batches, or a generator that is empty from the second epoch on."""
    assert told in _refused(recipe_of(f"batch = {_GOOD}\ndef load(): return {returned}\n")).what


def test_a_loader_that_resets_itself_is_accepted(recipe_of: Callable[..., Recipe]):
    """Pins hand-written loaders, which return themselves from __iter__, taken for one-shot iterators."""
    source = (
        "class Loader:\n"
        "    def __iter__(self): self.left = 3; return self\n"
        "    def __next__(self):\n"
        "        if not self.left: raise StopIteration\n"
        "        self.left -= 1\n"
        f"        return {_GOOD}\n"
        "def load(): return {'train': Loader(), 'validation': Loader()}\n"
    )
    loaders = load_data(recipe_of(source))
    assert [len(list(loaders.train)) for _ in range(2)] == [3, 3]


def test_a_loader_that_raises_shows_the_users_line(recipe_of: Callable[..., Recipe]):
    """Pins a traceback through torch's loader for a missing image."""
    source = (
        "class Pictures(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, index):\n"
        "        return open('/no/such/picture.png')\n"
        "def load():\n"
        "    loader = torch.utils.data.DataLoader(Pictures(), 2)\n"
        "    return {'train': loader, 'validation': loader}\n"
    )
    error = _refused(recipe_of(source))
    assert "the train loader raised FileNotFoundError" in error.what
    assert str(error.where).endswith("task.py:6: return open('/no/such/picture.png')")


def test_a_factory_that_raises_is_a_recipe_error_with_its_line(recipe_of: Callable[..., Recipe]):
    """Pins "a fault of pdp-export" for a fault of the data factory."""
    with pytest.raises(RecipeError, match=r"data\.factory raised ZeroDivisionError") as caught:
        load_data(recipe_of("def load(): return 1 / 0\n"))
    assert str(caught.value.where).endswith("task.py:3: def load(): return 1 / 0")


def test_unpack_keeps_dict_order_without_names():
    """Pins inputs that change places when no names are given."""
    tensors, target = unpack(({"b": torch.ones(1), "a": torch.zeros(1)}, 3))
    assert [float(tensor) for tensor in tensors] == [1.0, 0.0]
    assert target == 3


def test_a_default_collated_pair_is_a_batch():
    """Pins the list [inputs, target] that torch's default collation yields."""
    loader = DataLoader(TensorDataset(torch.ones(4, 2), torch.zeros(4)), 2)
    tensors, _ = unpack(next(iter(loader)))
    assert tensors[0].shape == (2, 2)

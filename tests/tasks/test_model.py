"""The user's network and its weights: loaded whole, refused by name, never executed."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from pdp_export.errors import FileError, RecipeError, UnsafeFileError
from pdp_export.recipe import Recipe
from pdp_export.tasks.model import build_model, load_weights, read_state_dict

_BUILD = "def build(width=4): return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))\n"


def _network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_same_seed_draws_the_same_parameters_and_arguments_arrive(recipe_of: Callable[..., Recipe]):
    """Pins a run that cannot be repeated, or model.arguments that are ignored."""
    recipe = recipe_of(_BUILD, model={"factory": "task.py:build", "arguments": {"width": 7}}, seed=3)
    first = build_model(recipe).state_dict()
    torch.rand(5)
    assert _same(first, build_model(recipe).state_dict())
    assert first["0.weight"].shape == (7, 3)


def test_a_factory_that_returns_no_module_is_refused(recipe_of: Callable[..., Recipe]):
    """Pins an AttributeError much later when the factory forgot its return."""
    with pytest.raises(RecipeError, match=r"model\.factory returned NoneType, not a torch\.nn\.Module"):
        build_model(recipe_of("def build(): nn.Linear(1, 1)\n"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_load_from_safetensors_and_from_a_state_dict(tmp_path: Path, suffix: str):
    """Pins a common container of weights that is refused, or values that change on the way."""
    trained, fresh, path = _network(), _network(), tmp_path / f"w{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(trained.state_dict(), path)
    load_weights(fresh, path)
    assert _same(trained.state_dict(), fresh.state_dict())


def test_an_old_state_dict_loads(tmp_path: Path):
    """Pins files of torch before 1.6, which are no zip archives."""
    trained, fresh, path = _network(), _network(), tmp_path / "old.pth"
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=False)
    load_weights(fresh, path)
    assert _same(trained.state_dict(), fresh.state_dict())


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path):
    """Pins torch's page-long message, or a model that is half loaded."""
    model, path = _network(), tmp_path / "w.safetensors"
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value for key, value in before.items() if key != "1.bias"}
    save_file({**state, "0.bias": torch.ones(9), "head.bias": torch.ones(2)}, path)
    with pytest.raises(FileError) as caught:
        load_weights(model, path)
    for told in ("1 missing (1.bias)", "1 unknown (head.bias)", "1 of another shape (0.bias (9,) instead of (4,))"):
        assert told in caught.value.what
    assert _same(before, model.state_dict())


def test_a_hundred_unknown_tensors_are_counted_and_a_few_are_named(tmp_path: Path):
    """Pins a message of a thousand lines for the weights of another network."""
    path = tmp_path / "w.safetensors"
    save_file({f"block{index}.weight": torch.ones(1) for index in range(100)}, path)
    with pytest.raises(FileError, match="100 unknown") as caught:
        load_weights(_network(), path)
    assert len(caught.value.what) < 400


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "."])
def test_missing_weights_are_told_with_the_key_to_check(tmp_path: Path, name: str):
    """Pins a FileNotFoundError for a mistyped path or a folder."""
    with pytest.raises(FileError, match="does not exist") as caught:
        read_state_dict(tmp_path / name)
    assert "model.weights" in str(caught.value.hint)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float):
    """Pins a copy that broke off, loaded as far as it goes or reported by a traceback."""
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(_network().state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(FileError) as caught:
        read_state_dict(cut)
    assert cut.name in caught.value.what
    assert caught.value.hint


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "not weights")


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)


_FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("weights, as promised", encoding="utf-8"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "zip": _archive,
    "list": lambda path: torch.save([torch.ones(2)], path),
    "checkpoint": lambda path: torch.save({"state_dict": _network().state_dict(), "epoch": 3}, path),
}


@pytest.mark.parametrize("kind", _FOREIGN)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_foreign_file_is_refused(tmp_path: Path, kind: str, suffix: str):
    """Pins a file of another kind under a familiar suffix that ends in a traceback, or loads as nonsense."""
    path = tmp_path / f"w{suffix}"
    _FOREIGN[kind](path)
    with pytest.raises(FileError) as caught:
        read_state_dict(path)
    assert path.name in caught.value.what


@pytest.mark.parametrize(
    "start",
    [b"\x08\x0a\x12\x07pytorch", b"weights, as promised", b"\x20\0\0\0TFL3", bytes(64)],
    ids=["onnx", "text", "tflite", "zeros"],
)
def test_a_file_that_is_no_pickle_is_not_called_one(tmp_path: Path, start: bytes):
    """Pins an .onnx or .tflite file given as weights that is called a pickle with code in it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(start + bytes(range(200)))
    with pytest.raises(FileError, match=r"neither a \.safetensors file nor a state dict of torch") as caught:
        read_state_dict(path)
    assert not isinstance(caught.value, UnsafeFileError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, which old files were made with
def test_a_torchscript_file_is_refused_without_a_warning(tmp_path: Path):
    """Pins torch.load switching to torch.jit.load, which is no reader of plain weights."""
    path = tmp_path / "script.pt"
    _script(path)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(FileError, match=r"script\.pt"):
            read_state_dict(path)
    assert not shown


def test_a_whole_pickled_model_is_refused_with_advice(tmp_path: Path):
    """Pins torch.save(model) being unpickled, class and all."""
    path = tmp_path / "model.pt"
    torch.save(_network(), path)
    with pytest.raises(UnsafeFileError, match="nothing in it was executed") as caught:
        read_state_dict(path)
    assert "state_dict()" in str(caught.value.hint)


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("container", ["raw pickle", "torch zip", "torch old", "inside a state dict"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path, suffix: str, container: str):
    """Pins remote code execution by a downloaded weights file: the file it would create must not appear."""
    mark, path = tmp_path / "executed", tmp_path / f"w{suffix}"
    bomb = _Bomb(mark)
    if container == "raw pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif container == "inside a state dict":
        torch.save({**_network().state_dict(), "2.bias": bomb}, path)
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=container == "torch zip")
    with pytest.raises(FileError):
        read_state_dict(path)
    assert not mark.exists()
    live = io.BytesIO(path.read_bytes())  # The bomb is no dud: an ordinary load does execute it.
    pickle.load(live) if container == "raw pickle" else torch.load(live, weights_only=False)  # noqa: S301
    assert mark.exists()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of good files, one per kind."""
    folder = tmp_path_factory.mktemp("whole")
    state = _network().state_dict()
    save_file(state, folder / "w.safetensors")
    torch.save(state, folder / "w.pt")
    torch.save(state, folder / "w.pth", _use_new_zipfile_serialization=False)
    return folder


@settings(max_examples=150, deadline=None)
@given(suffix=st.sampled_from([".safetensors", ".pt", ".pth"]), place=st.floats(0, 1), junk=st.binary(max_size=8))
def test_a_damaged_file_is_refused_or_read_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, whole_files: Path, suffix: str, place: float, junk: bytes
):
    """Pins the many kinds of exceptions that torch's reader lets through on a few wrong bytes."""
    data = (whole_files / f"w{suffix}").read_bytes()
    start = int(place * len(data))
    path = tmp_path_factory.mktemp("damaged") / f"w{suffix}"
    path.write_bytes(data[:start] + junk + data[start + len(junk) :] if junk else data[:start])
    try:
        state = read_state_dict(path)
    except FileError:
        return
    assert all(isinstance(value, Tensor) for value in state.values())

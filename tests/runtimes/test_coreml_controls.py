"""Negative controls of the weight check: every damage to stored weights is seen, in every form of compression."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export.errors import FileError, PdpExportError
from pdp_export.results import Verdict
from pdp_export.runtimes import coreml_package
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.validation.weight_check import check_stored_weights
from tests.converters.coreml_networks import convert, pruned

FORMS = ("sparse", "sparse+int8", "sparse+palette4", "sparse+palette6")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
TRIALS = 12


@pytest.fixture(scope="module", params=FORMS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Any]:
    """A package with one sparse weight of the form, and the weights it must hold."""
    torch.manual_seed(1)
    layer = pruned(nn.Conv2d(16, 40, 3, bias=False), 0.7)
    path = tmp_path_factory.mktemp("controls") / "p.mlpackage"
    convert(path, nn.Sequential(layer), torch.zeros(1, 16, 6, 6), encoding=request.param, options={"min_ios": 18})
    return path, request.param, {"0.weight": layer.weight.detach().numpy()}


@pytest.fixture
def copy(package: tuple[Path, str, Any], tmp_path: Path) -> Path:
    shutil.copytree(package[0], tmp_path / "p.mlpackage")
    return tmp_path / "p.mlpackage"


def _seen(path: Path, expected: Any) -> bool:
    try:
        return check_stored_weights(expected, coreml_package.weights(path)).verdict is Verdict.FAIL
    except FileError:
        return True


def _blobs(path: Path) -> dict[str, tuple[int, int]]:
    """Return, by MIL's name of the stored type, where the data of each blob starts and how long it is."""
    blobs = PackageFiles(path).weights("@model_path/weights/weight.bin")._blobs
    return {blob.kind: (offset + 64, blob.data.size) for offset, blob in blobs.items()}


def _numbers(path: Path) -> tuple[int, int]:
    """Return the blob of the non-zero numbers: the largest one that is no mask."""
    return max((place for kind, place in _blobs(path).items() if kind != "UINT1"), key=lambda place: place[1])


def _flip_mask(data: bytearray, places: dict[str, tuple[int, int]], random: Random) -> None:
    start, size = places["UINT1"]
    data[start + random.randrange(size)] ^= 1 << random.randrange(8)


def _move_mask(data: bytearray, places: dict[str, tuple[int, int]], random: Random) -> None:
    """Move one set bit by one place, the count unchanged: output parity misses this."""
    start, size = places["UINT1"]
    bits = np.unpackbits(np.frombuffer(bytes(data[start : start + size]), np.uint8), bitorder="little")
    edges = np.flatnonzero(bits[1:] != bits[:-1])
    edge = int(edges[random.randrange(len(edges))])
    bits[[edge, edge + 1]] = bits[[edge + 1, edge]]
    data[start : start + size] = np.packbits(bits, bitorder="little").tobytes()


def _change_number(data: bytearray, places: dict[str, tuple[int, int]], random: Random) -> None:
    start, size = max((place for kind, place in places.items() if kind != "UINT1"), key=lambda place: place[1])
    data[start + random.randrange(size - 1)] ^= 1 << random.randrange(8)


def _shift_numbers(data: bytearray, places: dict[str, tuple[int, int]], random: Random) -> None:
    start, size = max((place for kind, place in places.items() if kind != "UINT1"), key=lambda place: place[1])
    step = 2 * random.randrange(1, 5)
    whole = data[start : start + size]
    data[start : start + size] = whole[step:] + whole[:step]


def _change_table(data: bytearray, places: dict[str, tuple[int, int]], random: Random) -> None:
    """Change an entry of the palette, or a scale: the only half-precision blob besides."""
    start, size = places["FLOAT16"]
    data[start + random.randrange(size)] ^= 1 << random.randrange(7)


@pytest.mark.parametrize("damage", [_flip_mask, _move_mask, _change_number, _shift_numbers, _change_table])
def test_every_damage_is_seen(package: tuple[Path, str, Any], copy: Path, damage: Callable[..., None]):
    """Pins a weight check that passes a moved mask bit, shifted values or a wrong palette: 100 % must be found."""
    _, _, expected = package
    assert not _seen(copy, expected)
    places, clean, random = _blobs(copy), (copy / WEIGHTS).read_bytes(), Random(0)
    for trial in range(TRIALS):
        data = bytearray(clean)
        damage(data, places, random)
        assert bytes(data) != clean
        (copy / WEIGHTS).write_bytes(bytes(data))
        assert _seen(copy, expected), trial


def test_swapped_channels_are_seen(package: tuple[Path, str, Any], copy: Path):
    """Pins a comparison of sorted or summed values, and one that finds a weight by its content alone."""
    _, _, expected = package
    values = expected["0.weight"]
    for first, second in ((0, 1), (3, 17), (38, 39)):
        swapped = values.copy()
        swapped[[first, second]] = values[[second, first]]
        assert _seen(copy, {"0.weight": swapped})


def test_the_zero_pattern_is_the_mask(package: tuple[Path, str, Any]):
    """Pins zeros lost to a palette entry, and a pruned weight that comes back to life."""
    path, form, expected = package
    (stored,) = coreml_package.weights(path)
    zeros = expected["0.weight"] == 0
    assert (stored.values[zeros] == 0).all()
    if form != "sparse+int8":  # values below half a step become zeros there too
        assert ((stored.values == 0) == zeros).all()
    assert stored.encoding == form


def test_mutated_packages_are_refused_or_seen(package: tuple[Path, str, Any], copy: Path):
    """Pins a crash, a hang or a wrong answer for files with random damage; benchmarks/coreml_packages tries 300."""
    path, form, expected = package
    image = np.random.default_rng(0).standard_normal((1, 16, 6, 6)).astype(np.float32)
    clean = coreml_package.open_session(path).run({"x0": image})["y"]
    random = Random(form)
    for _ in range(25):
        file = copy / random.choice((MODEL, WEIGHTS, Path("Manifest.json")))
        before = file.read_bytes()
        data = bytearray(before)
        for _ in range(random.choice((1, 1, 8))):
            data[random.randrange(len(data))] = random.randrange(256)
        file.write_bytes(bytes(data[: random.choice((len(data), len(data), random.randrange(len(data)))) or None]))
        try:
            same = check_stored_weights(expected, coreml_package.weights(copy)).verdict is Verdict.PASS
            got = coreml_package.open_session(copy).run({"x0": image})
            assert not same or "y" in got
            assert not same or got["y"].shape == clean.shape or not np.array_equal(got["y"], clean)
        except PdpExportError:
            pass
        file.write_bytes(before)

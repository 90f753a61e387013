"""Targets as data: missing packages, refused requests, predicted sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.converters import registry
from pdp_export.errors import MissingDependencyError, UsageError
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest, Effect, Effects, Target

_NO = Effect(expected=False, why="no kernel")
_EFFECTS = Effects(size=_NO, ram=_NO, speed=_NO)


def _target(**changes: object) -> Target:
    values = {
        "name": "toy", "title": "Toy", "suffix": ".toy", "extra": "toys", "modules": ("json",),
        "precisions": ("fp32", "fp16"), "encodings": ("dense", "bitmask"), "effects": {"unstructured": _EFFECTS},
        "atol": {"fp32": 1e-5}, "channel_alignment": 8, "options": {"opset": "18"},
        "storage": {"fp32": {"dense": (32.0, 0.0), "bitmask": (1.0, 32.0)}},
    }  # fmt: skip
    return Target.model_validate({**values, **changes})


def _request(**changes: object) -> ConvertRequest:
    inputs = (TensorSpec(name="x", shape=(1, 3)),)
    return ConvertRequest.model_validate({"inputs": inputs, "outputs": ("y",), **changes})


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part", "json.no_such_part"])
def test_a_missing_package_names_the_extra_to_install(module: str):
    """Pins a traceback instead of the pip command, also where only a sub-module is missing."""
    with pytest.raises(MissingDependencyError) as caught:
        _target(modules=("json", module)).require()
    assert module in caught.value.what
    assert caught.value.hint == "pip install 'pdp-export[toys]'"
    assert caught.value.exit_code == 3


def test_a_missing_package_without_extra_names_the_package_itself():
    """Pins the hint ``pdp-export[None]``."""
    with pytest.raises(MissingDependencyError, match="pip install 'pdp-export'"):
        _target(extra=None, modules=("no_such_library",)).require()


def test_installed_packages_are_enough():
    """Pins a check that refuses what is there."""
    _target(modules=("json", "importlib.util")).require()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"precision": "fp61"}, "no precision 'fp61' (did you mean 'fp16'?)"),
        ({"encoding": "bitmsk"}, "no encoding 'bitmsk' (did you mean 'bitmask'?)"),
        ({"encoding": "dense", "options": {"opsett": 17}}, "no option 'opsett' (did you mean 'opset'?)"),
    ],
)
def test_a_request_beyond_the_target_is_refused_with_near_misses(changes: dict[str, object], told: str):
    """Pins an unknown precision, encoding or option that reaches the converter."""
    with pytest.raises(UsageError) as caught:
        _request(**{"encoding": "dense", **changes}).check(_target())
    assert told in caught.value.what
    assert "use one of:" in str(caught.value.hint)


def test_a_target_without_options_says_so():
    """Pins an empty list of allowed options, which reads like a truncated message."""
    with pytest.raises(UsageError, match=r"use one of: \(none\)"):
        _request(encoding="dense", options={"opset": 17}).check(_target(options={}))


def test_a_request_within_the_target_passes():
    """Pins a check that refuses what the target declares."""
    _request(precision="fp16", encoding="bitmask", options={"opset": 17}).check(_target())


@given(zeros=st.floats(0, 1))
def test_predicted_bits_follow_the_formula_and_auto_takes_the_cheapest(zeros: float):
    """Pins a dry run that promises a size other than every + (1 - zeros) * nonzero."""
    target = _target()
    dense, mask = 32.0, 1 + (1 - zeros) * 32
    assert target.predicted_bits("fp32", "dense", zeros) == dense
    assert target.predicted_bits("fp32", "bitmask", zeros) == pytest.approx(mask)
    assert target.predicted_bits("fp32", "auto", zeros) == pytest.approx(min(dense, mask))


def test_what_was_never_declared_is_not_predicted():
    """Pins a made-up size for a precision or encoding without formula."""
    assert _target().predicted_bits("int8", "auto", 0.9) is None
    assert _target().predicted_bits("fp32", "gap8", 0.9) is None


@pytest.mark.parametrize("name", registry.MODULES)
def test_every_registered_target_is_complete(name: str):
    """Pins a converter whose declaration would fail the plan, the dry run or the tolerance look-up."""
    target = registry.load(name).TARGET
    assert target.name == name
    assert target.suffix.startswith(".")
    assert set(target.atol) >= set(target.precisions)
    assert set(target.effects) == {"unstructured", "channel"}
    assert {"auto", "dense"} <= set(target.encodings)
    assert set(target.storage) <= set(target.precisions)
    for effects in target.effects.values():
        assert all(effect.why for effect in (effects.size, effects.ram, effects.speed))


def test_an_unknown_target_is_refused_with_near_misses():
    """Pins a KeyError for a misspelt target."""
    with pytest.raises(UsageError, match=r"unknown target 'onxx' \(did you mean 'onnx'\?\)"):
        registry.load("onxx")

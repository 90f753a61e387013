"""The session that runs on macOS, against a stand-in for the parts of coremltools that exist only there.

What Apple's framework computes cannot be tested here; what we ask of coremltools and how its answers are judged can.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pdp_export.errors import FileError, NotRunnableError
from pdp_export.results import FileFacts, TensorSpec
from pdp_export.runtimes.coreml_session import CoreMLSession

FACTS = FileFacts(
    format="coreml", file_bytes=1, tensors=(),
    inputs=(TensorSpec(name="image", shape=(1, 3, 4, 4)), TensorSpec(name="ids", shape=(1, 2), dtype="int32")),
    outputs=(TensorSpec(name="logits", shape=(1, 2)),),
)  # fmt: skip


class Framework:
    """Stands for `coremltools` on a Mac: `refusal` is what Core ML says when it will not load a package."""

    def __init__(self, *, bridge: bool = True, refusal: str = "", failure: str = "") -> None:
        self.asked: dict[str, Any] = {}
        self.failure = failure
        self.ComputeUnit = SimpleNamespace(ALL="all")
        self.models = SimpleNamespace(model=SimpleNamespace(_MLModelProxy=object() if bridge else None))
        self.models.MLModel = self._open
        self._refusal = refusal
        self.logits = np.ones((1, 2), dtype=np.float32)

    def _open(self, path: str, compute_units: str) -> Framework:
        self.asked["open"] = (path, compute_units)
        if self._refusal:
            text = "You will not be able to run predict() on this Core ML model. Underlying exception message was: "
            warnings.warn(text + self._refusal, RuntimeWarning, stacklevel=2)
        return self

    def predict(self, feed: dict[str, Any]) -> dict[str, Any]:
        if self.failure:
            raise RuntimeError(self.failure)
        self.asked["feed"] = feed
        return {"logits": self.logits, "extra": self.logits}


def _session(monkeypatch: pytest.MonkeyPatch, framework: Framework) -> CoreMLSession:
    monkeypatch.setitem(sys.modules, "coremltools", framework)
    return CoreMLSession(Path("net.mlpackage"), FACTS)


def test_inputs_are_fed_in_the_types_of_the_package(monkeypatch: pytest.MonkeyPatch):
    """Pins float64 or int64 arrays, which coremltools refuses, and outputs that alias the framework's memory."""
    framework = Framework()
    session = _session(monkeypatch, framework)
    result = session.run({"image": np.zeros((1, 3, 4, 4)), "ids": np.zeros((1, 2), dtype=np.int64)})
    assert framework.asked["open"] == ("net.mlpackage", "all")
    assert {name: value.dtype.name for name, value in framework.asked["feed"].items()} == {
        "image": "float32",
        "ids": "int32",
    }
    framework.logits[:] = 7
    assert list(result) == ["logits"]
    assert result["logits"].tolist() == [[1, 1]]


def test_a_package_that_core_ml_refuses_is_a_file_error(monkeypatch: pytest.MonkeyPatch):
    """Pins a refusal that coremltools only warns about and that would surface at the first prediction."""
    with pytest.raises(FileError, match="compiler error: bad weights"):
        _session(monkeypatch, Framework(refusal="compiler error: bad weights"))


def test_a_missing_bridge_is_not_runnable(monkeypatch: pytest.MonkeyPatch):
    """Pins a failure of the installation reported as a damaged file."""
    with pytest.raises(NotRunnableError, match="bridge"):
        _session(monkeypatch, Framework(bridge=False))


def test_a_failing_prediction_is_not_a_wrong_result(monkeypatch: pytest.MonkeyPatch):
    """Pins a bare RuntimeError out of the framework."""
    session = _session(monkeypatch, Framework(failure="out of memory"))
    with pytest.raises(NotRunnableError, match="out of memory"):
        session.run({"image": np.zeros((1, 3, 4, 4)), "ids": np.zeros((1, 2))})

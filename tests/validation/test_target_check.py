"""All checks of one file together, with a made-up runtime; real runtimes are in test_isolated.py."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pdp_export import isolation
from pdp_export.converters import registry as converters
from pdp_export.errors import ChildCrashedError, NotRunnableError
from pdp_export.measurements import LatencyProtocol
from pdp_export.results import Execution, FileFacts, StoredWeight, TensorFacts, TensorSpec, Verdict
from pdp_export.runtimes import registry
from pdp_export.validation import isolated, run_file
from pdp_export.validation.accuracy import compare_predictions
from pdp_export.validation.gates import exit_code
from pdp_export.validation.target_check import Evidence, WrittenFile, check_file, with_latency

WEIGHT = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], np.float32)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


class _FakeRuntime(SimpleNamespace):
    """A "format" whose file is one matrix; `change` is added to every answer."""

    NAME = "fake"

    def version(self):
        return "1.0"

    def execution(self):
        return Execution(by="a fake")

    def describe(self, path):
        values = np.frombuffer(path.read_bytes(), np.float32)
        tensor = TensorFacts(
            name="w", shape=(2, 3), dtype="float32", stored_dtype="float32", encoding=self.encoding,
            zeros=int((values == 0).sum()), elements=6, stored_bytes=16,
        )  # fmt: skip
        return FileFacts(format="fake", file_bytes=24, inputs=(), outputs=(), tensors=(tensor,))

    def weights(self, path):
        return [StoredWeight("w", np.frombuffer(path.read_bytes()[:24], np.float32).reshape(2, 3), "mask")]

    def open_session(self, path, **_):
        if self.error is not None:
            raise self.error
        weight = self.weights(path)[0].values
        session = SimpleNamespace(
            inputs=(TensorSpec(name="x", shape=(4, 3)),), outputs=(TensorSpec(name="y", shape=(4, 2)),)
        )
        session.run = lambda inputs: {"y": inputs["x"] @ weight.T + self.change}
        return session


@pytest.fixture
def runtime(monkeypatch):
    """Put the fake in place of onnx, and run the child's functions here with JSON in between."""
    fake = _FakeRuntime(error=None, encoding="mask", change=np.float32(0))

    def call(function, payload, **_):
        answer = getattr(run_file, function.partition(":")[2])(**json.loads(json.dumps(payload)))
        return json.loads(json.dumps(answer))

    monkeypatch.setitem(registry.MODULES, "onnx", "fake_runtime_of_this_test")
    monkeypatch.setitem(sys.modules, "fake_runtime_of_this_test", fake)
    monkeypatch.setattr(isolation, "call", call)
    return fake


@pytest.fixture
def written(tmp_path):
    (tmp_path / "artifacts/dense").mkdir(parents=True)
    (tmp_path / "artifacts/model.onnx").write_bytes(WEIGHT.tobytes())
    (tmp_path / "artifacts/dense/model.onnx").write_bytes(np.ones((2, 3), np.float32).tobytes() * 2)
    return WrittenFile(
        target="onnx", title="ONNX", precision="fp32", encoding="auto", folder=tmp_path,
        file="artifacts/model.onnx", dense_file="artifacts/dense/model.onnx", atol=1e-5,
    )  # fmt: skip


def _evidence():
    truth = (X @ WEIGHT.T).argmax(axis=1)

    def judge(outputs):
        return compare_predictions(truth, truth, outputs["y"].argmax(axis=1))

    return Evidence(
        weights={"fc.weight": WEIGHT}, inputs={"x": X[:5]}, reference={"y": X[:5] @ WEIGHT.T},
        validation_chunks=lambda: [{"x": X[:7]}, {"x": X[7:]}], judge=judge,
    )  # fmt: skip


@pytest.mark.usefixtures("runtime")
def test_a_right_file_passes_every_check(written):
    """Weights, dtype, outputs, accuracy and size of a right file, with no path of the machine in the record."""
    result = check_file(written, _evidence())
    assert result.verdict is Verdict.PASS
    assert [check.name for check in result.checks] == ["weights", "dtype", "parity", "size"]
    assert result.accuracy is not None
    assert result.accuracy.n == 20
    assert result.size is not None
    assert (result.size.ratio, result.size.stored_densely_bytes) == (2.0, 32)
    assert str(written.folder) not in result.model_dump_json()
    assert type(result).model_validate_json(result.model_dump_json()) == result


def test_wrong_outputs_and_wrong_weights_fail(runtime, written):
    """A wrong answer fails parity although the weights are right, and the other way round."""
    runtime.change = np.array([0.1, 0.0], np.float32)
    result = check_file(written, _evidence())
    verdicts = {check.name: check.verdict for check in result.checks}
    assert (verdicts["weights"], verdicts["parity"]) == (Verdict.PASS, Verdict.FAIL)
    assert result.accuracy is not None
    runtime.change = np.float32(0)
    (written.folder / written.file).write_bytes(WEIGHT[:, ::-1].tobytes())
    assert check_file(written, _evidence()).weights.verdict is Verdict.FAIL


def test_a_format_that_cannot_run_here_is_not_run(runtime, written):
    """Core ML off macOS: weights are checked, outputs and accuracy are NOT_RUN with the reason, never PASS."""
    runtime.error = NotRunnableError("Core ML runs on macOS only")
    result = check_file(written, _evidence())
    verdicts = {check.name: (check.verdict, check.reason) for check in result.checks}
    assert verdicts["weights"][0] is Verdict.PASS
    assert verdicts["parity"] == verdicts["accuracy"] == (Verdict.NOT_RUN, "Core ML runs on macOS only")
    assert result.verdict is Verdict.NOT_RUN
    assert result.accuracy is None


def test_a_runtime_that_dies_is_a_failure(runtime, written):
    """A file that kills its runtime is broken, not skipped."""
    runtime.error = ChildCrashedError("running model.onnx ended by SIGSEGV")
    result = check_file(written, _evidence())
    assert result.verdict is Verdict.FAIL
    assert "SIGSEGV" in {check.name: check for check in result.checks}["parity"].reason


def test_a_runtime_that_dies_on_the_validation_set_is_a_failure(runtime, written):
    """A crash after the first samples passed parity: the file is broken, and its accuracy not merely skipped."""
    opened = runtime.open_session

    def open_once(path, **options):
        runtime.error, session = ChildCrashedError("running model.onnx ended by SIGSEGV"), opened(path, **options)
        return session

    runtime.open_session = open_once
    checks = {check.name: check for check in check_file(written, _evidence()).checks}
    assert checks["parity"].verdict is Verdict.PASS
    assert (checks["accuracy"].verdict, checks["accuracy"].reason) == (
        Verdict.FAIL,
        "running model.onnx ended by SIGSEGV",
    )


@pytest.mark.usefixtures("runtime")
def test_the_form_of_the_file_is_checked(written):
    """A file of another precision, or larger than its dense twin, whose values are right."""
    half = check_file(dataclasses.replace(written, precision="fp16"), _evidence())
    assert {check.name for check in half.checks if check.verdict is Verdict.FAIL} == {"dtype"}
    (written.folder / written.dense_file).write_bytes(b"small")
    grown = check_file(written, _evidence())
    assert {check.name for check in grown.checks if check.verdict is Verdict.FAIL} == {"size"}
    assert exit_code([half]) == 5
    assert exit_code([grown]) == 7


def test_zeros_that_are_stored_are_a_failure(runtime, written):
    """A large pruned weight that the format could encode and the file holds densely."""
    declared = converters.load("onnx").TARGET
    evidence = dataclasses.replace(_evidence(), weights={"fc.weight": np.eye(64, dtype=np.float32)})
    runtime.encoding = "dense"
    result = check_file(dataclasses.replace(written, declared=declared), evidence)
    size = {check.name: check for check in result.checks}["size"]
    assert size.verdict is Verdict.FAIL
    assert "fc.weight (98.4% zeros)" in size.reason
    explicit = dataclasses.replace(written, declared=declared, encoding="dense")
    assert check_file(explicit, evidence).checks[-1].verdict is Verdict.PASS


@pytest.mark.usefixtures("runtime")
def test_latency_is_added_later(written):
    """The bench stage adds its measurement, or its reason, to what validation found."""
    result = check_file(written, _evidence())
    dense = written.folder / written.dense_file
    protocol = LatencyProtocol(blocks=4, runs_per_block=1, bootstrap=100)
    measured = isolated.bench("onnx", dense, written.folder / written.file, {"x": X}, protocol)
    assert measured.batch == 4
    assert with_latency(result, measured).latency == measured
    skipped = with_latency(result, None, "not on a phone")
    assert skipped.checks[-1].verdict is Verdict.NOT_RUN
    assert with_latency(skipped, measured).checks == result.checks

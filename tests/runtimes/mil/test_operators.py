"""Every operator of the interpreter against numpy or torch, by Apple's documentation, in programs of MIL's builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdp_export.errors import FileError, NotRunnableError, UsageError
from pdp_export.runtimes.mil import interpreter
from pdp_export.runtimes.mil.interpreter import Interpreter
from pdp_export.runtimes.mil.program import read_function
from pdp_export.runtimes.mil.registry import OPERATORS
from tests.runtimes.mil import cases_elementwise, cases_layers, cases_movement
from tests.runtimes.mil.builder import check, no_weights, run, specification

PROGRAMS = {
    "elementwise": (cases_elementwise.CASES, 16),
    "layers": (cases_layers.CASES, 16),
    "layers-18": (cases_layers.IOS18_CASES, 18),
    "movement": (cases_movement.CASES, 16),
    "movement-17": (cases_movement.IOS17_CASES, 17),
    "movement-18": (cases_movement.IOS18_CASES, 18),
}
HERE = {"list_gather", "list_length", "list_read", "list_scatter", "list_write", "make_list", "classify"}
X = np.array([[1, -2, 3]], np.float32)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_family_computes_what_is_documented(name: str):
    """Pins a wrong formula, default, axis order or rounding of any operator."""
    check(*PROGRAMS[name])


def test_every_operator_has_a_case():
    """Pins an operator that nobody compares with anything, and a count below what was promised."""
    tested = {case.name for cases, _ in PROGRAMS.values() for case in cases}
    assert set(OPERATORS) - tested - HERE == set()
    assert len(OPERATORS) >= 120


def test_lists_keep_their_elements_and_grow():
    """Pins elements shared between versions of a list, and a write behind the end that is lost."""

    def build(mb: Any, x: Any) -> Any:
        ls = mb.make_list(init_length=2, dynamic_length=True, elem_shape=(3,), dtype="fp32")
        ls = mb.list_write(ls=ls, index=0, value=mb.squeeze(x=x, axes=[0]))
        ls = mb.list_scatter(ls=ls, indices=[2, 3], value=mb.concat(values=(x, mb.mul(x=x, y=2.0)), axis=0))
        return (
            mb.identity(x=mb.list_read(ls=ls, index=0), name="a"), mb.identity(x=mb.list_length(ls=ls), name="b"),
            mb.identity(x=mb.list_gather(ls=ls, indices=[3, 1]), name="c"),
        )  # fmt: skip

    got = run(build, {"x": X}, 16)
    assert np.array_equal(got["a"], X[0])
    assert got["b"] == 4
    assert np.array_equal(got["c"], [X[0] * 2, X[0] * 0])


def test_branches_and_loops_follow_the_data():
    """Pins a branch decided by its order in the file, and a loop whose variables do not advance."""

    def build(mb: Any, x: Any, n: Any) -> Any:
        n = mb.squeeze(x=n)
        small = mb.less(x=n, y=2)
        y = mb.cond(pred=small, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.square(x=x))
        _, z = mb.while_loop(
            _cond=lambda i, z: mb.less(x=i, y=n),  # noqa: ARG005
            _body=lambda i, z: (mb.add(x=i, y=1), mb.add(x=z, y=x)), loop_vars=(0, y),
        )  # fmt: skip
        return mb.identity(x=z, name="z")

    for count, start in ((1, np.maximum(X, 0)), (3, X**2)):
        got = run(build, {"x": X, "n": np.array([count], np.int32)}, 16)
        assert np.array_equal(got["z"], start + count * X)


def test_a_loop_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch):
    """Pins a hang on a damaged or hostile program."""

    def build(mb: Any, x: Any) -> Any:
        start = mb.squeeze(x=x)
        return mb.while_loop(_cond=lambda i: mb.less(x=i, y=2), _body=lambda i: mb.mul(x=i, y=1), loop_vars=(start,))

    monkeypatch.setattr(interpreter, "_MOST_ROUNDS", 50)
    with pytest.raises(FileError, match="did not end"):
        run(build, {"x": np.array([0], np.int32)}, 16)


def test_states_live_from_run_to_run_when_they_are_kept(tmp_path: Path):
    """Pins a KV cache that starts anew inside a sequence, and one that leaks into the next."""
    import coremltools as ct
    import torch

    from pdp_export.converters.coreml_quiet import quiet
    from pdp_export.runtimes.coreml_files import PackageFiles

    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total.add_(x)
            return self.total * 2

    with quiet():
        traced = torch.jit.trace(Counter(), torch.tensor(X))
        wrapped = ct.TensorType(shape=(1, 3), dtype=np.float16)
        model = ct.convert(
            traced, inputs=[ct.TensorType(name="x", shape=(1, 3))], outputs=[ct.TensorType(name="y")],
            states=[ct.StateType(wrapped_type=wrapped, name="total")], minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
        )  # fmt: skip
        model.save(str(tmp_path / "counter.mlpackage"))
    package = PackageFiles(tmp_path / "counter.mlpackage")
    opened = Interpreter(read_function(package.specification.mlProgram, package.weights))
    kept: dict[str, Any] = {}
    assert [opened.run({"x": X}, kept)["y"].tolist() for _ in range(2)] == [(2 * X).tolist(), (4 * X).tolist()]
    assert opened.run({"x": X})["y"].tolist() == (2 * X).tolist()


def test_halves_are_rounded_at_every_declared_result():
    """Pins float32 kept between operators, which would hide what a phone loses, and a mode that changes nothing."""
    x = np.array([[1.0009765625, 3.0]], np.float32)

    def build(mb: Any, x: Any) -> Any:
        return mb.mul(x=mb.mul(x=x, y=x), y=np.float32(1000), name="y")

    exact, wide = (run(build, {"x": x}, 16, fp16=True, mode=mode)["y"] for mode in ("exact", "wide"))
    square = (x.astype(np.float16) * x.astype(np.float16)).astype(np.float16)
    assert np.array_equal(exact, (square.astype(np.float32) * 1000).astype(np.float16).astype(np.float32))
    assert not np.array_equal(exact, wide)
    assert np.allclose(wide, x * x * 1000, rtol=1e-6)


def test_open_sizes_take_what_comes():
    """Pins shapes fixed at the example, and an input outside the declared shape that is computed all the same."""
    from coremltools.converters.mil.mil import get_new_symbol

    def build(mb: Any, x: Any) -> Any:
        flat = mb.reshape(x=x, shape=mb.concat(values=(mb.gather(x=mb.shape(x=x), indices=[0], axis=0), [-1]), axis=0))
        return mb.reduce_sum(x=flat, axes=[1], name="y")

    shapes = {"x": (get_new_symbol(), 3, 2)}
    spec = specification(build, {"x": np.zeros((2, 3, 2), np.float32)}, 16, shapes=shapes)
    opened = Interpreter(read_function(spec.mlProgram, no_weights))
    for count in (1, 5):
        x = np.random.default_rng(count).standard_normal((count, 3, 2)).astype(np.float32)
        assert np.allclose(opened.run({"x": x})["y"], x.sum((1, 2)), atol=1e-6)
    with pytest.raises(UsageError, match="the program takes"):
        opened.run({"x": np.zeros((1, 4, 2), np.float32)})
    with pytest.raises(UsageError, match="is missing"):
        opened.run({})


def _message(build: Any, inputs: dict[str, Any]) -> Any:
    return specification(build, inputs, 17).mlProgram


def _operation(program: Any, kind: str) -> Any:
    function = program.functions["main"]
    return next(op for op in function.block_specializations[function.opset].operations if op.type == kind)


def test_an_operator_that_is_not_there_is_named():
    """Pins a guess at the meaning of an unknown operator: its name and the layer must be in the error."""
    program = _message(lambda mb, x: mb.relu(x=x, name="act"), {"x": X})
    _operation(program, "relu").type = "relu_of_tomorrow"
    with pytest.raises(NotRunnableError, match="relu_of_tomorrow") as caught:
        Interpreter(read_function(program, no_weights))
    assert "act" in str(caught.value.where)


def test_a_parameter_that_the_operator_does_not_have_is_refused():
    """Pins a newer form of an operator computed as the older one, its new parameter ignored."""
    program = _message(lambda mb, x: mb.softmax(x=x, axis=1), {"x": X})
    operation = _operation(program, "softmax")
    operation.inputs["temperature"].CopyFrom(operation.inputs["axis"])
    with pytest.raises(FileError, match="temperature"):
        Interpreter(read_function(program, no_weights))
    operation.inputs.pop("temperature")
    operation.inputs.pop("x")
    with pytest.raises(FileError, match="needs \\['x'\\]"):
        Interpreter(read_function(program, no_weights))


def test_a_result_that_contradicts_its_declaration_is_refused():
    """Pins a package whose declared shapes or types are not what its operators give."""
    program = _message(lambda mb, x: mb.relu(x=x, name="y"), {"x": X})
    kind = _operation(program, "relu").outputs[0].type.tensorType
    kind.dimensions[1].constant.size = 4
    with pytest.raises(FileError, match="has shape \\[1, 3\\], declared is \\[1, 4\\]"):
        Interpreter(read_function(program, no_weights)).run({"x": X})
    kind.dimensions[1].constant.size = 3
    kind.dataType = 23
    with pytest.raises(FileError, match="declared is INT32"):
        Interpreter(read_function(program, no_weights)).run({"x": X})


@pytest.mark.parametrize("reps", [[1 << 20, 1 << 20], [-1, 3]])
def test_memory_is_bounded_before_it_is_asked_for(reps: list[int]):
    """Pins a small file that makes the machine swap."""
    program = _message(lambda mb, x, n: mb.tile(x=x, reps=n), {"x": X, "n": np.array([1, 1], np.int32)})
    opened = Interpreter(read_function(program, no_weights))
    with pytest.raises(FileError, match="asks for a tensor"):
        opened.run({"x": X, "n": np.array(reps, np.int32)})


def test_an_index_out_of_bounds_is_refused():
    """Pins a silent wrap or clamp where MIL leaves the result open (iOS 17), and -1 refused where it is allowed."""

    def build(mb: Any, x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=1, name="y")

    for ios, index in ((17, -1), (17, 3), (16, 3)):
        with pytest.raises(FileError, match="on an axis of 3"):
            run(build, {"x": X, "i": np.array([index], np.int32)}, ios)
    assert run(build, {"x": X, "i": np.array([-1], np.int32)}, 16)["y"] == X[:, 2]

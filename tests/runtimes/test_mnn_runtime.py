"""The MNN reader: damaged and foreign files, every storage form of a weight, and its own table of names."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zlib
from importlib import metadata
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pdp_export.errors import DataError, FileError, NotRunnableError
from pdp_export.native_output import stdout_to_stderr
from pdp_export.runtimes import mnn_runtime
from pdp_export.runtimes.mnn_schema import OPERATOR_NAMES
from pdp_export.runtimes.registry import Array

SIZES = {"first": (8, 3, 3, 3), "second": (12, 8, 1, 1), "third": (4, 12, 3, 3)}


def convert(arguments: list[str]) -> None:
    with stdout_to_stderr():
        import _tools

        _tools.mnnconvert(["mnnconvert", *arguments])


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    """Return pruned weights: 80 % zeros in the second and third."""
    random = np.random.default_rng(0)
    values = {name: random.normal(size=size).astype(np.float32) for name, size in SIZES.items()}
    for name in ("second", "third"):
        values[name][random.random(SIZES[name]) < 0.8] = 0
    return values


@pytest.fixture(scope="module")
def source(weights: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ONNX file of three convolutions, made without torch."""
    nodes, last = [], "image"
    for name in SIZES:
        nodes += [
            helper.make_node("Conv", [last, f"{name}.weight"], [name]),
            helper.make_node("Relu", [name], [f"r{name}"]),
        ]
        last = f"r{name}"
    nodes[-1].output[0] = "y"
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 9, 9]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 5, 5]),
    ]
    tensors = [numpy_helper.from_array(values, f"{name}.weight") for name, values in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 18)]
    )
    path = tmp_path_factory.mktemp("source") / "net.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def net(source: Path) -> Path:
    return foreign(source, "sparse", ["--detectSparseSpeedUp"])


def foreign(source: Path, name: str, flags: list[str]) -> Path:
    """Return a file as another user of MNN would write it, without our record."""
    path = source.with_name(f"{name}.mnn")
    convert(["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(path), *flags])
    return path


@pytest.mark.parametrize(
    ("flags", "dtypes", "encodings", "error"),
    [
        ([], ["float32"] * 3, ["dense"] * 3, 0),
        (["--detectSparseSpeedUp"], ["float32"] * 3, ["dense", "sparse", "sparse"], 0),
        (["--fp16"], ["float16"] * 3, ["dense"] * 3, 2**-10),
        (["--weightQuantBits", "8"], ["int8"] * 3, ["dense"] * 3, 1 / 200),
        (["--weightQuantBits", "8", "--weightQuantAsymmetric"], ["int8"] * 3, ["dense"] * 3, 1 / 200),
        (["--weightQuantBits", "4"], ["int4"] * 3, ["dense"] * 3, 1 / 12),
        (["--weightQuantBits", "3"], ["int3"] * 3, ["dense"] * 3, 1 / 5),
        (["--weightQuantBits", "8", "--detectSparseSpeedUp"], ["int8"] * 3, ["dense", "sparse", "sparse"], 1 / 200),
    ],
)
def test_every_storage_form_decodes_to_the_weights(
    source: Path, weights: dict[str, Array], flags: list[str], dtypes: list[str], encodings: list[str], error: float
) -> None:
    """A decoder that misreads bit order, zero point, block scale or index gives plausible but wrong numbers."""
    path = foreign(source, f"form{zlib.crc32(' '.join(flags).encode())}", flags)
    facts = {tensor.name: tensor for tensor in mnn_runtime.describe(path).tensors}
    stored = {weight.name: weight for weight in mnn_runtime.weights(path)}
    assert list(stored) == ["first.weight", "second.weight", "third.weight"]
    for (name, values), dtype, encoding in zip(weights.items(), dtypes, encodings, strict=True):
        tensor = facts[f"{name}.weight"]
        found = stored[f"{name}.weight"].values.astype(np.float64)
        assert (tensor.stored_dtype, tensor.encoding, tensor.shape) == (dtype, encoding, values.shape), name
        assert np.abs(found - values).max() <= error * np.abs(values).max(), name


def test_bytes_of_a_sparse_weight_are_counted(net: Path, weights: dict[str, Array]) -> None:
    """Indices belong to the size of a sparse weight: eight bytes per nonzero."""
    facts = {tensor.name: tensor for tensor in mnn_runtime.describe(net).tensors}
    nonzero = np.count_nonzero(weights["third"])
    tensor = facts["third.weight"]
    assert (tensor.stored_bytes, tensor.zeros, tensor.elements) == (8 * nonzero, 432 - nonzero, 432)
    assert facts["first.weight"].stored_bytes == 4 * 216


def test_file_of_another_tool_is_described(net: Path) -> None:
    """No record of ours: names come from the operators, shapes from the graph, and what is unknown is said."""
    facts = mnn_runtime.describe(net)
    assert [(spec.name, spec.shape, spec.layout) for spec in facts.inputs] == [("image", (1, 3, 9, 9), "NCHW")]
    assert [spec.name for spec in facts.outputs] == ["y"]
    assert facts.metadata == {"bizCode": "MNNTest"}
    assert facts.notes == ("an .mnn file stores no output shapes",)
    assert facts.operators == {"ConvertTensor": 2, "Convolution": 3, "Input": 1}
    assert facts.file_bytes == net.stat().st_size


def test_weights_in_another_file_are_reported(source: Path) -> None:
    """A file that keeps its weights elsewhere must not look like a tiny model."""
    path = foreign(source, "outside", ["--saveExternalData"])
    facts = mnn_runtime.describe(path)
    assert mnn_runtime.weights(path) == []
    assert "first: weights are in a separate .weight file" in facts.notes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_truncated_file_is_refused(net: Path, tmp_path: Path, share: float) -> None:
    """MNN's native code dies on damaged files: no cut may pass the reader."""
    data = net.read_bytes()
    path = tmp_path / "cut.mnn"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FileError, match=r"cut.mnn is truncated, damaged or no MNN file"):
        mnn_runtime.describe(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_crash_the_reader(net: Path, tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Either the facts (a changed weight is still a weight) or a FileError; never another exception."""
    data = bytearray(net.read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    path = tmp_path / "flipped.mnn"
    path.write_bytes(data)
    with contextlib.suppress(FileError):
        mnn_runtime.describe(path)
        mnn_runtime.weights(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04" + b"x" * 500, b"\x1c\0\0\0TFL3" + b"\0" * 900])
def test_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file, zeros, a zip archive, a .tflite under the wrong name."""
    path = tmp_path / "foreign.mnn"
    path.write_bytes(content)
    for action in (mnn_runtime.describe, mnn_runtime.weights, mnn_runtime.open_session):
        with pytest.raises(FileError, match=r"foreign\.mnn"):
            action(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A wrong path is a FileError too, not a traceback of the operating system."""
    with pytest.raises(FileError, match="No such file"):
        mnn_runtime.describe(tmp_path / "none.mnn")


def reference(weights: dict[str, Array], image: Array) -> Array:
    """Return the network's output by definition, in double precision."""
    x = image.astype(np.float64)
    for values in weights.values():
        k = values.shape[2]
        patches = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
        x = np.maximum(np.einsum("nchwij,ocij->nohw", patches, values.astype(np.float64)), 0)
    return x


@pytest.mark.parametrize("threads", [1, 2])
def test_session_computes_the_network(net: Path, weights: dict[str, Array], threads: int) -> None:
    """Batch sizes may change from run to run, and earlier results must not change with them."""
    session = mnn_runtime.open_session(net, threads=threads)
    random = np.random.default_rng(1)
    kept = []
    for batch in (1, 4, 2):
        image = random.normal(size=(batch, 3, 9, 9)).astype(np.float32)
        kept.append((session.run({"image": image})["y"], reference(weights, image)))
    for found, expected in kept:
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_wrong_inputs_are_named(net: Path) -> None:
    """MNN would read floats as integers, or crash on an absent input."""
    session = mnn_runtime.open_session(net)
    with pytest.raises(DataError, match="input 'image' is missing"):
        session.run({"picture": np.zeros((1, 3, 9, 9), np.float32)})
    with pytest.raises(DataError, match="input 'image' is complex128"):
        session.run({"image": np.zeros((1, 3, 9, 9), complex)})


def test_impossible_shape_is_refused(net: Path) -> None:
    """MNN answers an impossible shape with no output at all, or worse."""
    session = mnn_runtime.open_session(net)
    with pytest.raises((NotRunnableError, DataError)):
        session.run({"image": np.zeros((1, 5, 9, 9), np.float32)})


def test_operator_names_are_those_of_the_library(tmp_path: Path) -> None:
    """The table is ours; MNN's own dump of a file with every operator number is the reference."""
    path, dump = tmp_path / "all.mnn", tmp_path / "all.json"
    path.write_bytes(file_with_operators(range(700)))
    convert(["-f", "MNN", "--modelFile", str(path), "--JsonFile", str(dump)])
    operators = json.loads(dump.read_text())["oplists"]
    assert {n: item["type"] for n, item in enumerate(operators) if isinstance(item["type"], str)} == OPERATOR_NAMES


def file_with_operators(numbers: range) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    tensor = builder.CreateString("t")
    operators = []
    for number in numbers:
        builder.StartObject(7)
        builder.PrependInt32Slot(5, number, -1)
        operators.append(builder.EndObject())
    vectors = []
    for entries in (operators, [tensor]):
        builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry)
        vectors.append(builder.EndVector())
    builder.StartObject(12)
    builder.PrependUOffsetTRelativeSlot(3, vectors[0], 0)
    builder.PrependUOffsetTRelativeSlot(7, vectors[1], 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def test_running_a_file_keeps_stdout_clean(net: Path) -> None:
    """MNN prints with printf, which shows up at exit unless C's own buffer is emptied in time."""
    code = f"""
import numpy as np
from importlib import metadata
from pathlib import Path
from pdp_export.runtimes import mnn_runtime
path = Path({str(net)!r})
mnn_runtime.version(), mnn_runtime.describe(path)
print(mnn_runtime.open_session(path).run({{"image": np.zeros((1, 3, 9, 9), np.float32)}})["y"].shape)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "(1, 4, 5, 5)\n"), done.stderr


def test_saying_what_executes_loads_no_native_code() -> None:
    """MNN prints a line about the processor when it is imported, in the middle of a run's progress."""
    code = "import sys; from pdp_export.runtimes import mnn_runtime as m; print(m.execution().by, 'MNN' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"MNN {metadata.version('MNN')} False\n"
    assert done.stderr == ""

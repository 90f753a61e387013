"""Hostile and damaged ONNX files: refused quickly, in bounded memory, by every door that opens one."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pdp_export.converters import onnx_sparse
from pdp_export.errors import ConversionError, FileError, NotRunnableError, PdpExportError
from pdp_export.runtimes import onnx_runtime
from pdp_export.runtimes.onnx_expand import expand
from tests.runtimes.test_onnx_expand import network

FAST, ALL = 45, 300
SECONDS = 1.0
MEMORY = 300 << 20


def seeds() -> list[bytes]:
    """Return files of every encoding, and one that is dense."""
    found = []
    for encoding in ("dense", "gap", "gap8", "bitmask", "bitmask2", "rice", "nm"):
        for half in (False, True):
            model = network()
            onnx_sparse.encode(model, encoding, half=half)
            found.append(model.SerializeToString())
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double or move bytes; or change one field of the parsed model to an extreme."""
    kind = rng.randrange(6)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 2:
        start, length = rng.randrange(len(data)), rng.randrange(1, 400)
        return data[:start] + data[start + length :]
    if kind == 3:
        start, length = rng.randrange(len(data)), rng.randrange(1, 400)
        return data[:start] + data[start : start + length] * rng.randrange(2, 5) + data[start + length :]
    return _structural(onnx.ModelProto.FromString(data), rng).SerializeToString()


def _structural(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    graph = model.graph
    tensor, node = rng.choice(graph.initializer), rng.choice(graph.node)
    extreme = rng.choice([-1, 0, 1 << 31, 1 << 40, (1 << 63) - 1, 3])
    change = rng.randrange(7)
    if change == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = extreme
    elif change == 1:
        tensor.data_type = rng.randrange(0, 26)
    elif change == 2:
        values = numpy_helper.to_array(tensor).copy()
        if values.size and values.dtype.kind in "iu":
            values.reshape(-1)[rng.randrange(values.size)] = np.array(extreme).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    elif change == 3:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(["../../../../etc/passwd", "/etc/passwd", "x.bin"]))
    elif change == 4 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([item.name for item in graph.initializer] + ["", "y"])
    elif change == 5:
        node.op_type = rng.choice(["Reshape", "Gather", "Loop", "Nonsense", "Transpose"])
    else:
        graph.node.append(rng.choice(graph.node))
    return model


def open_everywhere(path: Path, output: Path) -> str:
    """Read facts and weights, then expand; return how it ended."""
    try:
        onnx_runtime.describe(path)
        onnx_runtime.weights(path)
        expand(path, output)
    except (FileError, ConversionError):
        return "refused"
    return "read"


def _fuzz(count: int, first: int, tmp_path: Path) -> dict[str, int]:
    rng, files = random.Random(first), seeds()
    path, ends = tmp_path / "m.onnx", {"refused": 0, "read": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(files), rng))
        start = time.process_time()
        ends[open_everywhere(path, tmp_path / "out.onnx")] += 1
        assert time.process_time() - start < SECONDS
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < MEMORY
    return ends


def test_mutated_files_are_refused_or_read(tmp_path):
    """A damaged file that crashes a reader, hangs it, or makes it allocate what it claims."""
    ends = _fuzz(FAST, 0, tmp_path)
    assert min(ends.values()) > FAST // 10, ends


@pytest.mark.slow
def test_three_hundred_mutated_files(tmp_path):
    """The same for many more files."""
    ends = _fuzz(ALL, 1, tmp_path)
    assert min(ends.values()) > ALL // 10, ends


@pytest.mark.slow
def test_mutated_files_in_the_runtime(tmp_path):
    """ONNX Runtime itself must end with an error of ours or with an answer, never take the process down."""
    from pdp_export import isolation
    from pdp_export.errors import ChildCrashedError

    rng, files = random.Random(2), seeds()
    for _ in range(20):
        (tmp_path / "m.onnx").write_bytes(mutated(rng.choice(files), rng))
        try:
            isolation.call(
                "pdp_export.validation.run_file:describe_file", {"target": "onnx", "path": str(tmp_path / "m.onnx")},
                what="fuzzing",
            )  # fmt: skip
            onnx_runtime.open_session(tmp_path / "m.onnx").run({"x": np.zeros((1, 64), np.float32)})
        except ChildCrashedError as error:
            raise AssertionError(str(error)) from error
        except (PdpExportError, NotRunnableError):
            continue


def claims(shape: tuple[int, ...]) -> onnx.ModelProto:
    """A file of a few hundred bytes whose decoder asks for zeros of any size."""
    size = int(np.prod([int(axis) for axis in shape], dtype=object)) % (1 << 63)
    nodes = [
        helper.make_node("Cast", ["g"], ["s"], to=TensorProto.INT32),
        helper.make_node("CumSum", ["s", "axis"], ["at"]),
        helper.make_node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(np.zeros(1, np.float32))),
        helper.make_node("ScatterElements", ["z", "at", "v"], ["f"], axis=0),
        helper.make_node("Reshape", ["f", "shape"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    constants = {
        "g": np.array([1], np.uint8), "v": np.ones(1, np.float32), "axis": np.array(0, np.int64),
        "n": np.array([size], np.int64), "shape": np.array(shape, np.int64),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("shape", [(1 << 20, 25_000), (1 << 31, 12), (1 << 33,), (3, 1 << 40)])
def test_claims_of_a_hundred_gigabytes(shape, tmp_path):
    """Eight bytes ask for 100 GB: refused within a second by facts, weights, expand and session."""
    path = tmp_path / "m.onnx"
    path.write_bytes(claims(shape).SerializeToString())
    start = time.process_time()
    for opened in (
        onnx_runtime.describe, onnx_runtime.weights, onnx_runtime.open_session,
        lambda source: expand(source, tmp_path / "o.onnx"),
    ):  # fmt: skip
        with pytest.raises(FileError, match="more than a file can hold"):
            opened(path)
    assert time.process_time() - start < SECONDS
    assert not (tmp_path / "o.onnx").exists()

"""What `inspect` says of an .ort file, and that a damaged one is refused."""

from __future__ import annotations

import contextlib
import random
import time

import numpy as np
import pytest

from pdp_export.converters import onnx_export, onnx_sparse
from pdp_export.converters.onnx_export import ORT
from pdp_export.errors import FileError, UsageError
from pdp_export.pipeline import onnx_files
from pdp_export.runtimes import ort_file
from pdp_export.runtimes.registry import name_for
from pdp_export.targets import ConvertRequest
from pdp_export.validation.treatment import treatments
from tests.cli.conftest import pdp  # noqa: F401  the fixture
from tests.runtimes.test_onnx_expand import network


@pytest.fixture(scope="module")
def ort(tmp_path_factory):
    """Return an .ort file with two sparse weights."""
    folder = tmp_path_factory.mktemp("ort")
    model = network()
    model.metadata_props.add(key="pdp_export.version", value="1")
    onnx_sparse.encode(model, "auto")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    made = onnx_files.to_ort(folder / "m.onnx", folder / "m.ort").path
    ort_file.describe(made)  # imports are not timed
    return made


def test_facts_are_those_of_the_file(ort, pdp):  # noqa: F811
    """Zeros, bytes and storage must be those of the .ort file, not of the .onnx file it came from."""
    facts = ort_file.describe(ort)
    assert (facts.format, facts.file_bytes, facts.encodings["coo"]) == ("ort", ort.stat().st_size, 2)
    assert [(spec.name, spec.dtype, dict(spec.dynamic)) for spec in facts.inputs] == [("x", "float32", {0: "n"})]
    assert facts.outputs[0].name == "y"
    assert facts.notes[-1].endswith("opens it")
    assert sum(facts.operators.values()) > 0
    expected = {item.name: item for item in network().graph.initializer}
    for tensor in facts.tensors:
        values = np.frombuffer(expected[tensor.name].raw_data, np.float32)
        assert (tensor.elements, tensor.zeros) == (values.size, values.size - np.count_nonzero(values))
        if tensor.encoding == "coo":  # positions take two bytes here
            assert tensor.stored_bytes == 6 * np.count_nonzero(values)
    shown = pdp("inspect", ort)
    assert shown.code == 0, shown.err
    assert "coo x2" in shown.out
    sparse = {tensor.name for tensor in facts.tensors if tensor.encoding == "coo"}
    assert {item.name for item in treatments(facts, ORT) if item.disk.expected} == sparse


def test_other_doors_say_where_to_go(ort, pdp, tmp_path, monkeypatch):  # noqa: F811
    """`--encode coo` belongs to `--ort` and to nothing else; only `inspect` takes .ort files."""
    with pytest.raises(FileError, match="by `pdp-export inspect` only"):
        name_for(ort)
    with pytest.raises(UsageError, match="no encoding 'coo'") as error:
        ConvertRequest(inputs=(), outputs=(), encoding="coo").check(onnx_export.TARGET)
    assert "--ort" in str(error.value.hint)
    source = ort.with_suffix(".onnx")
    monkeypatch.setattr(onnx_files, "to_ort", lambda _, output: onnx_files.OrtFile(output, output, 1, 2))
    assert pdp("convert", "--ort", source, "-o", tmp_path, "--encode", "coo").code == 0
    for arguments in (("--expand", source, "--encode", "coo"), ("--ort", source, "--encode", "gap8")):
        assert pdp("convert", *arguments, "-o", tmp_path).code != 0


@pytest.mark.parametrize("seed", range(40))
def test_mutated_files_are_refused_or_read(ort, tmp_path, monkeypatch, seed):
    """An offset that leads anywhere must end in an error of ours within a second, or in a record."""
    monkeypatch.setattr(ort_file, "_verdict", lambda _: "was not asked")  # the runtime itself opens it in a child
    rng, data = random.Random(seed), bytearray(ort.read_bytes())
    for _ in range(rng.randrange(1, 30)):
        data[rng.randrange(len(data) if seed % 2 else 2000)] = rng.randrange(256)
    (tmp_path / "m.ort").write_bytes(data if seed % 4 else data[: rng.randrange(len(data))])
    start = time.process_time()
    with contextlib.suppress(FileError):
        ort_file.describe(tmp_path / "m.ort")
    assert time.process_time() - start < 1


def test_other_files_are_refused(tmp_path):
    """Not a FlatBuffer, empty, absent."""
    for data in (b"", b"\x08\x07onnx", b"\x08\0\0\0TFL3" + bytes(99)):
        (tmp_path / "m.ort").write_bytes(data)
        with pytest.raises(FileError, match="does not begin as one"):
            ort_file.describe(tmp_path / "m.ort")
    with pytest.raises(FileError, match="does not exist"):
        ort_file.describe(tmp_path / "none.ort")

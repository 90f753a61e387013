"""The LiteRT converter, judged by the file it writes and by LiteRT running that file."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pdp_export.converters import litert_export, litert_graph, litert_sparse
from pdp_export.errors import ConversionError, ProofError, UsageError
from pdp_export.removal.simplification import simplify
from pdp_export.results import TensorSpec
from pdp_export.runtimes import litert_runtime
from pdp_export.targets import ConvertRequest
from pdp_export.validation.weight_check import check_stored_weights
from sample_models.mobilenet_v1 import mobilenet_v1

BATCH = {0: "batch"}


def prune(model, share=0.9, seed=0):
    """Zero the smallest weights of every layer but stems and depthwise ones; give BatchNorms statistics."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.05, 0.2, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
        elif isinstance(getattr(layer, "weight", None), nn.Parameter) and layer.weight.ndim > 1:
            layer.weight.data.normal_(0, (2 / layer.weight[0].numel()) ** 0.5, generator=generator)
            if layer.weight.shape[1] > 3:
                limit = layer.weight.abs().flatten().kthvalue(int(layer.weight.numel() * share)).values
                layer.weight.data[layer.weight.abs() <= limit] = 0
    return model.eval()


def captured(model, *inputs):
    """Capture with a batch of two that stays dynamic, as the pipeline does."""
    return simplify(model, tuple(inputs), dict.fromkeys(range(len(inputs)), BATCH))


def request(*inputs, outputs=1, **changes):
    """Ask for batch 1, with inputs x0, x1, ... and outputs y0, y1, ..."""
    specs = tuple(
        TensorSpec(
            name=f"x{index}",
            shape=(1, *item.shape[1:]),
            dtype=str(item.dtype).removeprefix("torch."),
            dynamic=BATCH,
            layout="NCHW" if item.ndim == 4 else "any",
        )
        for index, item in enumerate(inputs)
    )
    return ConvertRequest(inputs=specs, outputs=tuple(f"y{index}" for index in range(outputs)), **changes)


def check(model, inputs, path, outputs=1, **changes):
    """Convert, then compare every output and every stored weight with PyTorch; return the facts of the file."""
    program = captured(model, *inputs)
    litert_export.convert(program, path, request(*inputs, outputs=outputs, **changes))
    compare(model, program, inputs, path)
    return litert_runtime.describe(path)


def compare(model, program, inputs, path):
    """Hold a file against the model: every output within 1e-5 of max|y|, every weight bit by bit."""
    session = litert_runtime.open_session(path)
    fed = {
        spec.name: (item[:1].permute(0, 2, 3, 1) if spec.layout == "NHWC" else item[:1]).numpy()
        for spec, item in zip(session.inputs, inputs, strict=True)
    }
    results = session.run(fed)
    expected = torch.utils._pytree.tree_leaves(model(*[item[:1] for item in inputs]))
    assert list(results) == [f"y{index}" for index in range(len(expected))]
    for result, wanted in zip(results.values(), expected, strict=True):
        assert wanted.abs().max() > 1e-3
        assert np.abs(result - wanted.detach().numpy()).max() <= 1e-5 * wanted.abs().max()
    weights = {name: item.detach().numpy() for name, item in program.state_dict.items() if item.ndim > 1}
    assert check_stored_weights(weights, litert_runtime.weights(path)).verdict == "PASS"


@pytest.fixture(scope="module")
def mobilenet():
    return prune(mobilenet_v1(width=0.5, blocks=5)), torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def program(mobilenet):
    return captured(mobilenet[0], mobilenet[1])


@pytest.fixture(scope="module")
def files(program, mobilenet, tmp_path_factory):
    """One pruned MobileNet, stored densely and sparsely."""
    folder = tmp_path_factory.mktemp("litert")
    written = {}
    for encoding in ("dense", "auto"):
        written[encoding] = folder / f"{encoding}.tflite"
        asked = request(mobilenet[1], encoding=encoding, metadata={"labels": "0,1", "mean": "[0.5]"})
        litert_export.convert(program, written[encoding], asked)
    return written


@pytest.mark.parametrize("encoding", ["dense", "auto"])
def test_pruned_mobilenet_runs_equal(encoding, mobilenet, program, files):
    """Outputs or weights differed from PyTorch: LiteRT itself decodes the sparse tensors here."""
    compare(mobilenet[0], program, (mobilenet[1],), files[encoding])


def test_every_tensor_has_a_readable_name(files):
    """litert-torch calls weights after its own wrapper, so no layer could be told from another."""
    facts = litert_runtime.describe(files["auto"])
    assert facts.operators["DENSIFY"] == facts.encodings["sparse"] >= 4
    assert {"features.8.0.weight", "classifier.weight"} <= {tensor.name for tensor in facts.tensors}
    names = [
        tensor.name for graph in litert_graph.parse(files["auto"].read_bytes()).subgraphs for tensor in graph.tensors
    ]
    assert len(set(names)) == len(names)
    assert not any(b"litert_torch" in name for name in names)
    assert "can be used on ARM" in facts.notes[0]


def test_sparse_file_is_smaller_by_what_was_pruned(files):
    """Zeros were stored as numbers; only a sparse tensor makes the file smaller."""
    dense, sparse = litert_runtime.describe(files["dense"]), litert_runtime.describe(files["auto"])
    assert dense.zeros == sparse.zeros
    assert dense.encodings == {"dense": len(dense.tensors)}
    assert sparse.file_bytes < 0.5 * dense.file_bytes
    assert all(tensor.encoding == "dense" or tensor.zeros > 0.5 * tensor.elements for tensor in sparse.tensors)


def test_densify_comes_first_and_feeds_layers(files):
    """LiteRT 2.3.0 crashes on a sparse tensor that FULLY_CONNECTED reads directly; no layer may read one."""
    model = litert_graph.parse(files["auto"].read_bytes())
    graph = model.subgraphs[0]
    names = [litert_graph.operator_name(model, operator) for operator in graph.operators]
    count = names.count("DENSIFY")
    assert names[:count] == ["DENSIFY"] * count
    sparse = {index for index, tensor in enumerate(graph.tensors) if tensor.sparsity is not None}
    readers = {
        index: [name for name, item in zip(names, graph.operators, strict=True) if index in item.inputs]
        for index in sparse
    }
    assert all(found == ["DENSIFY"] for found in readers.values())
    assert all(graph.tensors[index].type == 0 for index in sparse)


def test_buffers_start_at_multiples_of_sixteen(files):
    """The schema's own Python code forgets the alignment that XNNPACK's loads rely on."""
    content = files["auto"].read_bytes()
    model = litert_graph.parse(content)
    for buffer in model.buffers[1:]:
        data = np.asarray(buffer.data, np.uint8).tobytes()
        if len(data) >= 64:
            assert content.index(data) % 16 == 0


def test_metadata_layouts_and_signature_travel(files):
    """Preprocessing and names got lost on the way to the phone."""
    facts = litert_runtime.describe(files["auto"])
    assert facts.metadata["labels"] == "0,1"
    assert facts.metadata["min_runtime_version"] == "2.2.0"
    assert [(item.name, item.shape, item.layout) for item in facts.inputs] == [("x0", (1, 32, 32, 3), "NHWC")]
    assert [(item.name, item.shape) for item in facts.outputs] == [("y0", (1, 10))]


class MeanEnding(nn.Module):
    """Ends in ``mean([2, 3])``, which litert-torch writes as TRANSPOSE + MEAN."""

    def __init__(self, tapped: bool) -> None:
        super().__init__()
        self.stem, self.point = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 64, 1)
        self.linear, self.tapped = nn.Linear(64, 100), tapped

    def forward(self, x):
        x = torch.relu(self.point(F.hardswish(self.stem(x))))
        y = self.linear(x.mean([2, 3]))
        return (y, x) if self.tapped else y


@pytest.mark.parametrize(
    ("tapped", "layout", "shape"), [(False, "nhwc", (1, 32, 32, 3)), (True, "nchw", (1, 3, 32, 32))]
)
def test_transpose_before_mean_is_folded(tapped, layout, shape, tmp_path):
    """The TRANSPOSE silently keeps XNNPACK from its sparse kernels; one that another output needs must stay."""
    model = prune(MeanEnding(tapped))
    image = torch.randn(2, 3, 32, 32)
    facts = check(model, (image,), tmp_path / "m.tflite", outputs=1 + tapped, options={"layout": layout})
    assert facts.operators.get("TRANSPOSE", 0) == 2 * tapped
    assert ("can be used" in facts.notes[0]) is not tapped
    assert (facts.inputs[0].shape, facts.inputs[0].layout) == (shape, layout.upper())


class Decoder(nn.Module):
    """Transposed, grouped and multiplied depthwise convolutions; two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.same, self.odd = nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ConvTranspose2d(32, 32, 3, 2, 1, output_padding=1)
        self.late = nn.ConvTranspose2d(32, 32, 3, 2, output_padding=1)
        self.grouped, self.multiplied = nn.Conv2d(32, 64, 3, 1, 1, groups=2), nn.Conv2d(64, 128, 3, 1, 1, groups=64)

    def forward(self, x):
        y = self.late(self.odd(self.same(self.stem(x))))
        return {"z": self.multiplied(self.grouped(y)), "a": x.sum(1)}


class Encoder(nn.Module):
    """Embedding, Conv1d, attention, a bare matrix product and a (C, 1) scale."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(500, 64), nn.Conv1d(64, 64, 3, padding=1)
        self.qkv, self.norm = nn.Linear(64, 192), nn.LayerNorm(64)
        self.matrix, self.scale = nn.Parameter(torch.randn(64, 32)), nn.Parameter(torch.rand(12, 1))

    def forward(self, tokens):
        x = self.table(tokens)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2) * self.scale
        q, k, v = self.qkv(self.norm(x)).view(x.shape[0], 12, 3, 4, 16).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ self.matrix


class Twins(nn.Module):
    """Two inputs, an output that is an input, and two layers with equal weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(300, 200), nn.Linear(300, 200)

    def forward(self, x, y):
        return self.first(x), self.second(y) + 1, y


def test_decoder(tmp_path):
    """litert-torch refuses transposed convolutions with padding; densified ones must still be delegated right."""
    facts = check(prune(Decoder()), (torch.randn(2, 3, 16, 16),), tmp_path / "m.tflite", outputs=2)
    assert facts.operators["TRANSPOSE_CONV"] == 3
    assert facts.encodings["sparse"] == 4


def test_flatten_behind_a_convolution(tmp_path):
    """A channels-last input made torch refuse the view that the captured program has after its convolution."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    facts = check(prune(model), (torch.randn(2, 3, 8, 8),), tmp_path / "m.tflite")
    assert facts.inputs[0].layout == "NHWC"


def test_encoder(tmp_path):
    """Integer inputs, Conv1d shapes and transposed matrices came back as other weights."""
    facts = check(prune(Encoder()), (torch.randint(0, 500, (2, 12)),), tmp_path / "m.tflite")
    assert facts.inputs[0].dtype == "int32"
    assert facts.encodings["sparse"] >= 3


def test_equal_weights_keep_both_names(tmp_path):
    """litert-torch merges equal constants, and the second weight seemed to be missing."""
    model = prune(Twins())
    model.second.weight.data.copy_(model.first.weight.data)
    check(model, (torch.randn(2, 300), torch.randn(2, 300)), tmp_path / "m.tflite", outputs=3)


def test_sparse_is_refused_where_nothing_shrinks(mobilenet, tmp_path):
    """Asked for a sparse file, got a dense one, and no word about it."""
    model = mobilenet_v1(width=0.25, blocks=1).eval()
    with pytest.raises(ConversionError, match="no weight gets smaller"):
        litert_export.convert(
            captured(model, mobilenet[1]), tmp_path / "m.tflite", request(mobilenet[1], encoding="sparse")
        )
    assert list(tmp_path.iterdir()) == []


class Determinant(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x)


def test_unknown_operator_is_named(tmp_path):
    """The converter's own message is a page of compiler text."""
    matrix = torch.eye(4).repeat(2, 1, 1)
    with pytest.raises(ConversionError, match=r"LiteRT cannot express .*det"):
        litert_export.convert(captured(Determinant(), matrix), tmp_path / "m.tflite", request(matrix))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose2d(32, 32, 2, 2, groups=4)

    def forward(self, x):
        return self.layer(x)


def test_weight_that_the_converter_splits_is_named(tmp_path):
    """Zeros that cannot be found again cannot be proven, so the layer is refused by name."""
    image = torch.randn(2, 32, 8, 8)
    with pytest.raises(ConversionError, match=r"layer\.weight"):
        litert_export.convert(captured(prune(Split()), image), tmp_path / "m.tflite", request(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"layout": "nhcw"}}, "did you mean"),
        ({"options": {"order": "nhwc"}}, "no option 'order'"),
        ({"precision": "fp16"}, "no precision 'fp16'"),
        ({"encoding": "gap8"}, "no encoding 'gap8'"),
    ],
)
def test_unknown_choices_are_refused_before_work(changes, message, program, mobilenet, tmp_path):
    """A typing error was found after minutes of conversion, or never."""
    with pytest.raises(UsageError, match=message):
        litert_export.convert(program, tmp_path / "m.tflite", request(mobilenet[1], **changes))


def test_number_of_inputs_and_outputs_is_checked(program, mobilenet, tmp_path):
    """Names were given to the wrong tensors."""
    image = mobilenet[1]
    with pytest.raises(ConversionError, match="1 inputs, 2 are named"):
        litert_export.convert(program, tmp_path / "m.tflite", request(image, image))
    with pytest.raises(ConversionError, match="1 outputs, 2 are named"):
        litert_export.convert(program, tmp_path / "m.tflite", request(image, outputs=2))


def test_a_wrong_weight_in_the_written_file_is_noticed(files):
    """The proof after writing must be able to fail."""
    content = files["auto"].read_bytes()
    stored = {item.name: item for item in litert_runtime.weights(files["auto"])}
    weight = stored["classifier.weight"].values
    litert_sparse.check_written(content, {"classifier.weight": weight})
    changed = weight.copy()
    changed[np.nonzero(changed == 0)[0][0], np.nonzero(changed == 0)[1][0]] = 1e-30
    for expected in (changed, weight[:-1], -weight):
        with pytest.raises(ProofError, match=r"classifier\.weight"):
            litert_sparse.check_written(content, {"classifier.weight": expected})


def write_linear(path):
    """Convert one pruned layer; also runs as a script of its own."""
    import pathlib

    import torch

    from pdp_export.converters import litert_export
    from pdp_export.removal.simplification import simplify
    from pdp_export.results import TensorSpec
    from pdp_export.targets import ConvertRequest

    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 32).eval()
    layer.weight.data *= torch.arange(64) > 50
    specs = (TensorSpec(name="x", shape=(1, 64)),)
    asked = ConvertRequest(inputs=specs, outputs=("y",), metadata={"b": "1", "a": "2"})
    litert_export.convert(simplify(layer, (torch.zeros(1, 64),)), pathlib.Path(path), asked)


def test_import_is_cheap_stdout_clean_and_bytes_repeat(tmp_path):
    """`pdp-export --help` loaded torch; progress bars mixed with results; a resumed run had another hash."""
    script = (
        "import sys\nfrom pdp_export.converters import litert_export\n"
        "assert not {'torch', 'litert_torch', 'ai_edge_litert'} & set(sys.modules)\n"
        f"{inspect.getsource(write_linear)}\nwrite_linear(sys.argv[1])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    write_linear(tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()

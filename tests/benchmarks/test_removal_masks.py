"""The networks, masks and rivals of the benchmark of channel removal."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.channel_removal import masks, ours, subjects
from benchmarks.channel_removal.case import Case
from benchmarks.channel_removal.dialect import folded
from benchmarks.channel_removal.experiment import Bench, _judged
from benchmarks.channel_removal.plan import Job
from benchmarks.channel_removal.rivals.naive import naive
from benchmarks.channel_removal.rivals.tied import tied_network, torch_pruning16
from benchmarks.channel_removal.rivals.upscale import _dropped
from benchmarks.channel_removal.sessions import Opened
from benchmarks.channel_removal.timing import Effort
from benchmarks.channel_removal.variants import RIVALS
from pdp_export.costs.onnx_networks import plain
from pdp_export.graph.capture import capture
from pdp_export.removal.costs import Macs, Never
from sample_models.densenet import densenet_cifar
from sample_models.efficientnet_v2 import efficientnet_v2
from sample_models.resnet import resnet_cifar

NETS = {
    "resnet": lambda: resnet_cifar(10, depth=8, width=16),
    "densenet": lambda: densenet_cifar(10, growth=4, blocks=(2, 2)),
    "efficientnet": lambda: efficientnet_v2(10),
}
SIZE = 32


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Put small networks and images in the place of the benchmark's own."""
    monkeypatch.setattr(subjects, "NETS", NETS)
    monkeypatch.setattr(subjects.calibrate, "__defaults__", (SIZE,))
    monkeypatch.setattr(subjects.image, "__defaults__", (SIZE, 7))


@pytest.fixture
def case_of(tmp_path):
    """Return a function that makes a case."""
    return lambda net, kind="columns", ratio=0.37: Case(net, kind, ratio, 8, tmp_path)


def difference(case, module):
    """Return the largest relative difference from the masked network."""
    with torch.no_grad():
        pairs = [(module(image), old) for image, old in zip(case.images, case.expected, strict=True)]
    return max(float((new - old).abs().max() / old.abs().max()) for new, old in pairs)


@pytest.mark.parametrize(("kind", "axis"), [("columns", 1), ("filters", 0)])
def test_masks_take_the_share_that_is_asked_for(case_of, kind, axis):
    """A mask that also took the stem, or another share, would compare nothing with the published figures."""
    model = case_of("efficientnet", kind, 0.5).masked
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for index, layer in enumerate(layers):
        lines = layer.weight.detach().transpose(0, axis).flatten(1).any(1)
        dead = 0 if index == 0 or layer.groups > 1 else round(0.5 * len(lines))
        assert int((~lines).sum()) == dead


def test_masks_of_layers_are_independent_and_repeatable(case_of):
    """Equal masks everywhere would be tied masks, the easy case."""
    kept = [masks.kept_columns(layer) for _, layer in masks.maskable(case_of("resnet").masked)]
    again = [masks.kept_columns(layer) for _, layer in masks.maskable(case_of("resnet").masked)]
    assert kept == again
    assert kept[0] != kept[1]


def test_dead_filters_emit_constants_that_are_not_zero(case_of):
    """With zero constants a removal that forgets BatchNorm's shift would pass."""
    model = case_of("resnet", "filters", 0.5).masked
    norm, layer = model.features[3].body[1], model.features[3].body[0]
    dead = ~layer.weight.detach().flatten(1).any(1)
    made = norm(torch.zeros(1, norm.num_features, 2, 2)).detach()[0, dead]
    assert dead.sum() == 8
    assert (made.abs() > 1e-3).all()


def test_the_function_depends_on_the_image(case_of):
    """A network that answers the same to every image would hide every mistake."""
    case = case_of("efficientnet")
    first, second = case.expected
    assert (first - second).std() > 0.05 * first.std()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("kind", ["columns", "filters"])
def test_naive_is_the_masked_network(case_of, net, kind):
    """A rival that computes something else is no rival."""
    case = case_of(net, kind, 0.5)
    made = naive(case)
    assert difference(case, made.module) < 2e-5
    assert sum(p.numel() for p in made.module.parameters()) < 0.8 * sum(p.numel() for p in case.masked.parameters())


@pytest.mark.parametrize("net", NETS)
def test_plans_of_ours_are_the_masked_network(case_of, net):
    """Our own variants skip the float64 proof here, so they have to be compared."""
    case = case_of(net)
    for make in (ours.never(8), ours.always(1), ours.always(8), ours.estimated("onnxruntime")):
        assert difference(case, make(case).module) < 2e-5


def test_policies_select_always_and_never(case_of):
    """The regret is measured against these: a policy that wavers would be another plan."""
    prepared = case_of("resnet").prepared
    gathers = {
        name: sum(
            node.target is torch.ops.aten.index_select.default
            for node in ours._removed(prepared, (1,), cost).module.graph.nodes
        )
        for name, cost in (("never", Never()), ("always", Macs()))
    }
    assert gathers["never"] == 0
    assert gathers["always"] >= 4


def test_the_same_form_for_all(case_of):
    """An average pool that is spelled out is slower in ONNX Runtime; it must not count against us."""
    case = case_of("efficientnet")
    targets = {node.target for node in ours.never(1)(case).module.graph.nodes}
    assert torch.ops.aten.mean.dim not in targets
    assert not any(getattr(module, "inplace", False) for module in folded(case.copy()).modules())


def test_plain_keeps_the_function():
    """A mean over the image without its axes kept is no pooling layer."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return (
                self.norm(x).mean([2, 3]) + x.mean([2, 3], keepdim=True).flatten(1) + x.mean([1, 3], keepdim=True).sum()
            )

    image = torch.randn(2, 4, 5, 5)
    model = Net().eval()
    module = capture(model, (image,)).module()
    torch.testing.assert_close(plain(module)(image), model(image))


def test_upscale16_fills_to_multiples_of_16_or_everything():
    """37 % of 256 leaves 161 columns; 176 is the next multiple of 16, with the first masked ones put back."""
    layer = nn.Conv2d(256, 8, 1)
    with torch.no_grad():
        layer.weight[:, :95] = 0
    assert _dropped(layer) == list(range(15, 95))
    narrow = nn.Conv2d(24, 8, 1)
    with torch.no_grad():
        narrow.weight[:, 3:10] = 0
    assert _dropped(narrow) == []


@pytest.mark.parametrize("net", ["resnet", "densenet"])
def test_tied_masks_are_where_torch_pruning_cuts(case_of, net):
    """Both must end with the same widths, else their times say nothing."""
    case = case_of(net, "columns", 0.5)
    cut = torch_pruning16(case).module
    made = ours.removed_from(tied_network(case), case.images[:1], ours.estimate(1)).module
    assert _widths(made) == _widths(cut)


def _widths(module):
    found = [tuple(p.shape) for p in module.parameters() if p.dim() == 4]
    return sorted(found)


def test_a_row_holds_every_variant(monkeypatch, tmp_path):
    """From job to row with real runtimes, also for what fails."""
    from benchmarks.channel_removal import experiment

    monkeypatch.setattr(experiment, "variants", lambda case, runtime: {**_some(case, runtime), "broken": _raises})
    bench = Bench(tmp_path, Effort(0.0, 3, 3))
    for runtime in ("torch", "onnxruntime"):
        row = bench.row(Job("resnet", runtime, "columns", 0.5))
        assert row["key"] == f"resnet/columns/0.5/{runtime}"
        assert {name: item["status"] for name, item in row["variants"].items()} == {
            "dense": "ok", "naive": "ok", "union16": "ok", "wrong": "wrong", "broken": "failed",
        }  # fmt: skip
        assert len(row["variants"]["dense"]["cpu_ms"]) == 3
        assert "cpu_ms" not in row["variants"]["wrong"]


def _some(case, runtime):
    from benchmarks.channel_removal import variants

    wanted = {name: make for name, make in variants.variants(case, runtime).items() if name in RIVALS}
    wrong = {"wrong": lambda _: ours.Made(folded(subjects.calibrate(subjects.network("resnet"))))}
    return {name: make for name, make in wanted.items() if not name.startswith("upscale")} | wrong


def _raises(_):
    from benchmarks.channel_removal.case import NotPossibleError

    raise NotPossibleError("no way")


def test_rounds_are_as_many_as_fit():
    """Odd, between the bounds."""
    assert [Effort(10, 5, 31).rounds(seconds) for seconds in (100, 1, 0.9, 1e-12)] == [5, 11, 11, 31]


@pytest.mark.parametrize(
    ("name", "error", "rounding", "status"),
    [
        ("ours", 0.9e-5, 0.0, "ok"),
        ("ours", 2e-5, 0.0, "wrong"),
        ("ours", 2e-5, 1e-5, "ok"),
        ("ours", 2e-4, 1e-4, "wrong"),
        ("dense", 2e-5, 0.0, "ok"),
        ("dense", 2e-4, 0.0, "wrong"),
    ],
)
def test_the_rounding_of_dense_is_the_yardstick(name, error, rounding, status):
    """Dense is what all are compared with: its own rounding must neither throw it out nor excuse a mistake."""
    case = SimpleNamespace(images=(torch.ones(1),), expected=(torch.ones(1, dtype=torch.float64),))
    session = Opened(lambda x: x.double() + error, lambda: None)
    assert _judged(case, name, session, rounding)["status"] == status

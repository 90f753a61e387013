"""From the history of the prune stage to the rows of the report."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pdp_export.pipeline.layer_table import layer_table
from pdp_export.pipeline.mask_table import mask_table
from pdp_export.pruning import PRESET_NAMES, Pruner, Schedule, Unstructured
from pdp_export.report.mask_figures import MaskFigures


def _history(preset: str, epochs: int = 3) -> dict[str, list[dict[str, object]]]:
    """Statistics as the prune stage writes them, of a net whose weights are small: t^2 is far under 1e-2."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    pruner = Pruner(net, Unstructured(0.5), Schedule(warmup=0.0, ramp_end=1.0), preset=preset, temperature=1e-2)
    records = []
    for epoch in range(epochs):
        pruner.step((epoch + 1) / epochs)
        records.append({"layers": [row.model_dump(mode="json") for row in pruner.statistics()]})
    last = records[-1]["layers"] if records else [row.model_dump(mode="json") for row in pruner.statistics()]
    return json.loads(json.dumps({"layers": last, "epochs": records}))


def test_the_report_marks_what_pruning_warns_of():
    """Two ideas of what is dangerous would let the page contradict the warnings."""
    rows = mask_table(_history("paper"), "unstructured", one_shot=False)
    assert [row.dangers for row in rows] == [("sharpness", "fuzzy")] * len(rows)
    assert rows[0].limits["gain"] == 2
    assert rows[0].fuzzy_limit == pytest.approx(0.1)
    calm = mask_table(_history("default"), "unstructured", one_shot=False)
    assert [row.dangers for row in calm] == [()] * len(calm)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_curves_follow_every_mask_over_the_epochs(preset: str):
    """A method whose figures do not fit the report would stop a run at its last stage."""
    rows = mask_table(_history(preset), "unstructured", one_shot=False)
    for row in rows:
        assert row.curves is not None
        assert len(row.curves.sparsity) == 3
        assert row.curves.churn[0] is None
        assert row.curves.threshold[-1] == row.threshold > 0
        if not row.gap:
            assert row.dangers == ()
        assert MaskFigures.model_validate_json(row.model_dump_json()) == row


def test_one_shot_has_no_dangers():
    """Nothing was trained under the soft masks, and kept weights keep their values: softness harms nothing."""
    history = _history("paper") | {"epochs": []}
    for row in mask_table(history, "channel", one_shot=True):
        assert (row.dangers, dict(row.limits), row.curves, row.unit) == ((), {}, None, "channels")


def test_layers_come_in_the_order_of_the_network():
    """Files of weights are sorted by name: layer 10 came before layer 2."""
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)))
    state = dict(sorted(net.state_dict().items()))
    assert [row.layer for row in layer_table(net, state, state, [])] == [str(index) for index in range(11)]

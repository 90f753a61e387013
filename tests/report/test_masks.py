"""What the report says about masks: the worst first, dangers marked with their limit, exact zeros never."""

import re

import pytest

from pdp_export.report import html_page, mask_plots
from pdp_export.report.mask_figures import worst_first
from tests.report.conftest import mask


def _section(report, masks, **change):
    page = html_page.render(report.model_copy(update={"masks": tuple(masks), **change}))
    found = re.search(r"<h2>Masks</h2>.*?</details>", page, flags=re.DOTALL)
    return found.group() if found else ""


def _hard(name, **change):
    return mask(name, gap=False, clip=None, sharpness=0.25, gain=1.0, fuzzy=0.0, limits={"gain": 2.0}, **change)


def test_worst_first():
    """A danger in the middle of fifty layers must not be looked for."""
    masks = [
        mask("calm", churn=0.01),
        mask("restless", churn=0.2),
        mask("near", sharpness=110.0),
        mask("soft", sharpness=9.0, dangers=("sharpness",)),
        mask("both", sharpness=90.0, gain=3.0, clip=None, dangers=("sharpness", "gain")),
    ]
    assert [item.name for item in worst_first(masks)] == ["both", "soft", "near", "restless", "calm"]


def test_dangers_are_marked_with_their_limit(report):
    """A number alone does not tell that it is dangerous, nor how far it should be."""
    section = _section(report, report.masks)
    assert "<details open>" in section
    assert section.index("features.7.pointwise") < section.index("features.2.pointwise")
    for words in ("1 beyond a limit", "9.3<small>at least 100", "at most 10.00", "5.15<small>at most 2<"):
        assert words in section
    assert section.count('class="number danger"') == 3
    assert "clipped to 1" in section


def test_without_dangers_the_section_is_folded(report):
    """Twenty calm layers are no news."""
    section = _section(report, [mask("a"), mask("b")])
    assert "<details>" in section
    assert "no figure beyond its limit" in section
    assert "danger" not in section


def test_exact_zeros_are_no_danger(report):
    """A method that trains with exact zeros has no sharpness to worry about: 0.5 is rectified's own constant."""
    section = _section(report, [_hard("a"), _hard("b")])
    assert "exact zeros" in section
    assert "sharpness" not in section
    assert "danger" not in section
    assert section.count("<svg") == 2  # threshold and churn


def test_one_shot_says_that_nothing_was_trained(report):
    """Half of the weights chosen without any training must not be taken for PDP."""
    bare = [mask("a").model_copy(update={"curves": None})]
    section = _section(report, bare, one_shot=True)
    assert "one-shot (not trained)" in section
    assert "<svg" not in section
    assert "sharpness" not in section
    page = html_page.render(report.model_copy(update={"one_shot": True}))
    assert page.index("one-shot (not trained)") < page.index("<h2>Files")


def test_channels_are_called_channels(report):
    """The churn of channels is no churn of weights."""
    section = _section(report, [mask("group", unit="channels", size=64)])
    assert "64 channels" in section
    assert "weights" not in section


def test_one_line_per_mask_and_its_name_under_the_pointer():
    """A line without a name is of no use, and a name from the user's model is escaped."""
    masks = worst_first([mask(f"layer.{index}") for index in range(5)] + [mask("<b>")])
    plots = dict(mask_plots.mask_curves(masks))
    assert list(plots)[:2] == ["threshold t", "sharpness t\N{SUPERSCRIPT TWO} / \N{GREEK SMALL LETTER TAU}"]
    for plot in plots.values():
        assert len(re.findall(r"<title>(layer\.\d|&lt;b&gt;)", plot)) == 6
        assert "<b>" not in plot
    assert "limit 100" in plots[list(plots)[1]]


def test_many_masks_and_epochs_stay_a_page_to_mail(report):
    """Seventy layers over a hundred epochs must not make megabytes."""
    section = _section(report, [mask(f"encoder.layer.{index}.dense", steps=100) for index in range(72)])
    assert "69 more, the 12 best of them not drawn" in section
    assert len(section) < 1_000_000


@pytest.mark.parametrize("steps", [1, 2])
def test_short_runs_are_drawn(report, steps):
    """One epoch is a point, not an error of the axes."""
    assert _section(report, [mask("a", steps=steps)]).count("<svg") == 5

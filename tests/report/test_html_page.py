"""The page: safe to open, complete, and silent about what was not measured."""

from html.parser import HTMLParser

import pytest

from pdp_export.measurements import LayerSparsity
from pdp_export.report import html_page
from pdp_export.report.run_report import RemovalChoice, RemovalPlan
from pdp_export.results import Skipped, Verdict

VOID = {"meta", "br"}
HOSTILE = "<script>alert('x')</script>\"&$_^"


class _Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = set(), [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).replace("\N{NON-BREAKING HYPHEN}", "-").split())


@pytest.fixture(scope="module")
def text(report):
    """The page of the sample run, drawn once."""
    return html_page.render(report)


def test_one_file_without_network_or_script(text):
    """A mailed report must not load or run anything."""
    page = _Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert "url(http" not in text


def test_the_same_report_gives_the_same_bytes(report, text):
    """Random ids of the plots would make every rerun look like a change."""
    assert html_page.render(report) == text


def test_everything_from_the_run_is_escaped(report):
    """Layer names, class labels, file names and reasons come from the user's model."""
    target = report.targets[0]
    row = target.accuracy.per_class[0].model_copy(update={"label": HOSTILE})
    accuracy = target.accuracy.model_copy(update={"per_class": (row, *target.accuracy.per_class[1:])})
    hostile = report.model_copy(
        update={
            "name": HOSTILE,
            "command": HOSTILE,
            "warnings": (HOSTILE,),
            "reasons": (HOSTILE,),
            "recipe": {HOSTILE: HOSTILE},
            "layers": (LayerSparsity(layer=HOSTILE, shape_before=(1, 1), achieved=0.5),),
            "skipped": (Skipped(layer=HOSTILE, stage=HOSTILE, reason=HOSTILE),),
            "targets": (target.model_copy(update={"title": HOSTILE, "file": HOSTILE, "accuracy": accuracy}),),
        }
    )
    page = _Page(html_page.render(hostile))
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>") >= 10


def test_not_run_is_shown_with_its_reason(text):
    """A check that did not run must be seen, not be missing."""
    text = _Page(text).text
    assert "Core ML files run on macOS only" in text
    core_ml = text[text.index("Core ML artifacts/") : text.index("LiteRT artifacts/")]
    assert core_ml.count("NOT RUN") == 4


def test_speed_is_only_claimed_when_measured(report):
    """Without a latency measurement the page must not say that anything is faster."""
    bare = report.model_copy(
        update={"targets": tuple(target.model_copy(update={"latency": None}) for target in report.targets)}
    )
    text = _Page(html_page.render(bare)).text
    assert "faster" not in text
    assert "Latency was not measured" in text
    undecided = _Page(html_page.render(report.model_copy(update={"targets": report.targets[3:]}))).text
    assert "MNN: undecided" in undecided
    assert "drifted by 8.3%" in undecided


@pytest.mark.parametrize("words", ["1.71 MB", "7.51x", "-8.00 pt", "4.1e-07", "matches the ignore rule", "3.22 M"])
def test_figures_are_on_the_page(text, words):
    """The page and report.json must tell the same."""
    assert words in _Page(text).text


def test_verdict_comes_first(report, text):
    """The first words of the page are the verdict, and the sentence counts every file."""
    page = _Page(text)
    body = page.text[page.text.index("pdp-export") + len("pdp-export") :].strip()
    assert body.startswith("FAIL mobilenet-digits 2 of 4 files pass")
    assert html_page.headline(report.model_copy(update={"targets": ()})).startswith("This run wrote no file")


def test_the_sentence_says_that_no_gate_judged_the_run(report):
    """A PASS without gates must not read as if the loss of accuracy had been judged."""
    assert "every gate that is set" in html_page.headline(report)
    told = html_page.headline(report.model_copy(update={"gates": ()}))
    assert "2 of 4 files pass every check; no gate is set, so accuracy and latency are only reported" in told


def test_an_empty_report_renders(report):
    """A run of training only has no targets, layers or history."""
    empty = report.model_copy(
        update={"targets": (), "layers": (), "skipped": (), "history": (), "stages": (), "gates": (), "warnings": (),
                "dense_reference": None, "soft_hard_gap": None, "counts_before": None, "verdict": Verdict.NOT_RUN}
    )  # fmt: skip
    assert "No file was written" in _Page(html_page.render(empty)).text


def test_many_classes_show_the_worst(report):
    """A thousand classes would bury the one that was lost."""
    target = report.targets[0]
    row = target.accuracy.per_class[0]
    rows = [row.model_copy(update={"label": f"class-{index}", "drop": index / 1000}) for index in range(1000)]
    accuracy = target.accuracy.model_copy(update={"per_class": tuple(rows)})
    many = report.model_copy(update={"targets": (target.model_copy(update={"accuracy": accuracy}),)})
    text = _Page(html_page.render(many)).text
    assert "class-999 " in text
    assert "class-0 " not in text
    assert "980 more in report.json" in text


def _with_choices(report, number):
    choices = [
        RemovalChoice(layer=f"block.{i}{HOSTILE}", costs={"as it is": 120.5, "select": 80.25}, chosen="select")
        for i in range(number)
    ]
    plan = RemovalPlan(cost_of="measured microseconds", choices=tuple(choices))
    return _Page(html_page.render(report.model_copy(update={"removal": plan})))


def test_choices_of_removal_are_listed(report, text):
    """Why a layer got a gather must be told with what each option costs; a long list is folded."""
    page = _with_choices(report, 3)
    assert "3 of 3 layers changed by cost" in page.text
    assert "measured microseconds" in page.text
    assert "select 80.25" in page.text
    assert "script" not in page.tags
    assert ("open", None) in page.attributes
    many = _with_choices(report, html_page.MAX_OPEN_CHOICES + 1)
    assert many.attributes.count(("open", None)) == page.attributes.count(("open", None)) - 1
    assert "Layers narrower" not in _Page(text).text

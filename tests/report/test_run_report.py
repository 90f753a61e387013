"""report.json: what is written is what is read, and damaged files are refused by name."""

import json

import pytest

from pdp_export.errors import FileError
from pdp_export.report import run_report


def test_round_trip(report, tmp_path):
    """Tuples, intervals, verdicts and None must survive the file."""
    path = run_report.write(report, tmp_path)
    assert run_report.read(tmp_path) == report
    assert run_report.read(path) == report


def test_plain_json_with_units_and_words(report, tmp_path):
    """Other tools read it: standard JSON without NaN, verdicts spelled with an underscore."""
    text = run_report.write(report, tmp_path).read_text()
    assert "NaN" not in text
    values = json.loads(text)
    assert values["targets"][1]["verdict"] == "NOT_RUN"
    assert values["targets"][0]["size"]["dense_bytes"] == 12_810_000
    assert "p50_ms" in values["targets"][0]["latency"]["pruned"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "EOF"),
        (lambda text: text.replace("pdp.report/1", "pdp.report/9"), "pdp.report/1"),
        (lambda text: text.replace('"tool_version"', '"tool"'), "schema"),
    ],
)
def test_damaged_reports_are_refused(report, tmp_path, damage, words):
    """A truncated or foreign file must be an error with its place, not a half-read report."""
    path = run_report.write(report, tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(FileError, match=words):
        run_report.read(tmp_path)


def test_missing_report(tmp_path):
    """A folder without a report is named."""
    with pytest.raises(FileError, match=r"report\.json does not exist"):
        run_report.read(tmp_path)


def test_schema_covers_every_field():
    """The published schema is generated from the records, so it cannot fall behind; verdicts are an enumeration."""
    schema = json.loads(run_report.json_schema())
    assert set(run_report.RunReport.model_fields) == set(schema["properties"])
    assert schema["$defs"]["Verdict"]["enum"] == ["PASS", "FAIL", "NOT_RUN", "INCONCLUSIVE"]

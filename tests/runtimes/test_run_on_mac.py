"""The script that a colleague runs on a Mac, against a stand-in for Core ML; and its result in a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export import files
from pdp_export.errors import FileError, UsageError
from pdp_export.measurements import EnvironmentFacts, TargetResult
from pdp_export.pipeline import mac_kit
from pdp_export.report import html_page, mac_results
from pdp_export.report.run_report import RunReport
from pdp_export.results import Verdict
from pdp_export.runtimes import coreml_package, run_on_mac
from tests.converters.coreml_networks import convert

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a package and its dense twin, and a kit made of them."""
    folder = tmp_path_factory.mktemp("run")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    for path in (folder / "artifacts/model.mlpackage", folder / "artifacts/dense/model.mlpackage"):
        path.parent.mkdir(exist_ok=True)
        convert(path, model, torch.from_numpy(X[:1]))
    with torch.no_grad():
        expected = {"y": model(torch.from_numpy(X)).numpy()}
    packages = {"pruned": folder / "artifacts/model.mlpackage", "dense": folder / "artifacts/dense/model.mlpackage"}
    mac_kit.emit(folder / "kit", packages, {"x0": X}, expected, 1e-2)
    return folder


class CoreML:
    """Stands for coremltools on a Mac; packages are run by our interpreter."""

    __version__ = "9.0"
    ComputeUnit = SimpleNamespace(CPU_ONLY=1, CPU_AND_GPU=2, CPU_AND_NE=3, ALL=4)

    def __init__(self, broken: int = 0) -> None:
        self.opened: list[tuple[str, int]] = []
        self.broken = broken
        self.models = SimpleNamespace(MLModel=self._open, utils=SimpleNamespace(compile_model=lambda path: path + "c"))

    def _open(self, path: str, compute_units: int) -> Any:
        if compute_units == self.broken:
            raise RuntimeError("no such unit")
        self.opened.append((Path(path).name, compute_units))
        session = coreml_package.open_session(Path(path))
        return SimpleNamespace(predict=session.run)


class Plan:
    """Stands for MLComputePlan: two operators, one of them not placed."""

    @classmethod
    def load_from_path(cls, path: str, compute_units: int) -> Plan:
        assert path.endswith(".mlpackagec")
        assert compute_units == CoreML.ComputeUnit.ALL
        return cls()

    model_structure = SimpleNamespace(
        program=SimpleNamespace(
            functions={
                "main": SimpleNamespace(
                    block=SimpleNamespace(
                        operations=[
                            SimpleNamespace(operator_name="ios16.conv", outputs=[SimpleNamespace(name="c")]),
                            SimpleNamespace(operator_name="const", outputs=[]),
                        ]
                    )
                )
            }
        )
    )

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        device = type("MLNeuralEngineComputeDevice", (), {})()
        if operation.operator_name == "const":
            return None
        return SimpleNamespace(preferred_compute_device=device, supported_compute_devices=[device])

    def get_estimated_cost_for_mlprogram_operation(self, _operation: Any) -> Any:
        return SimpleNamespace(weight=0.75)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> CoreML:
    framework = CoreML(broken=2)
    monkeypatch.setitem(sys.modules, "coremltools", framework)
    monkeypatch.setitem(sys.modules, "coremltools.models", framework.models)
    monkeypatch.setitem(sys.modules, "coremltools.models.compute_plan", SimpleNamespace(MLComputePlan=Plan))
    return framework


def _report() -> RunReport:
    environment = EnvironmentFacts(os="Linux", machine="x86_64", cpu="c", cpu_count=1, python="3.11")
    target = TargetResult(target="coreml", file="artifacts/model.mlpackage", verdict=Verdict.NOT_RUN)
    return RunReport(
        tool_version="0", created_utc="2026-01-01T00:00:00Z", name="n", command="c", verdict=Verdict.NOT_RUN,
        environment=environment, targets=(target,),
    )  # fmt: skip


def test_the_kit_is_whole_and_its_script_needs_nothing_of_ours(run: Path):
    """Pins a kit that only runs where pdp-export is installed, and one whose packages are not those of the run."""
    kit = run / "kit"
    assert {item.name for item in kit.iterdir()} - {"result.json"} == {  # other tests run the script
        "pruned.mlpackage", "dense.mlpackage", "inputs.npz", "expected.npz", "kit.json", "run_on_mac.py",
    }  # fmt: skip
    assert "pdp_export" not in (kit / "run_on_mac.py").read_text()
    described = json.loads((kit / "kit.json").read_text())
    assert described["packages"]["pruned"]["sha256"] == files.sha256(run / "artifacts/model.mlpackage")
    assert (described["samples"], described["inputs"][0]["name"], described["outputs"]) == (2, "x0", ["y"])
    asked = [sys.executable, "-I", str(kit / "run_on_mac.py"), "--help"]
    assert "--device" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    with pytest.raises(UsageError, match="exists already"):
        mac_kit.emit(kit, {"pruned": run / "artifacts/model.mlpackage"}, {"x0": X}, {}, 1e-2)


def test_every_unit_is_asked_and_a_failing_one_stops_nothing(run: Path, mac: CoreML):
    """Pins a result lost to one broken compute unit, and a parity or latency of the wrong package."""
    path = run_on_mac.main(["--blocks", "2", "--warmup", "1"], run / "kit")
    result = json.loads(path.read_text())
    assert [unit for name, unit in mac.opened if name == "pruned.mlpackage"] == [1, 3, 4]
    assert result["units"]["CPU_AND_GPU"] == {"error": "RuntimeError: no such unit"}
    unit = result["units"]["CPU_AND_NE"]
    assert unit["parity"][0]["relative_to_range"] < 5e-3
    assert {role: row["runs"] for role, row in unit["latency"].items()} == {"pruned": 10, "dense": 10}
    assert result["placement"] == [
        {
            "operator": "ios16.conv",
            "name": "c",
            "preferred": "NeuralEngine",
            "supported": ["NeuralEngine"],
            "cost": 0.75,
        }
    ]


def test_a_result_enters_the_report_and_its_page(run: Path, mac: CoreML, tmp_path: Path):
    """Pins measurements shown for another package, lost on the page, or counted twice."""
    del mac
    path = run_on_mac.main(["--blocks", "2", "--warmup", "1", "--units", "ALL", "CPU_AND_GPU"], run / "kit")
    report = mac_results.merged(_report(), run, path)
    report = mac_results.merged(report, run, path)
    (device,) = report.targets[0].devices
    assert [(unit.units, bool(unit.error), unit.runs) for unit in device.units] == [
        ("ALL", False, 10), ("CPU_AND_GPU", True, 0),
    ]  # fmt: skip
    assert [(place.device, place.operators, place.cost) for place in device.placement] == [("NeuralEngine", 1, 0.75)]
    assert report.targets[0].verdict is Verdict.NOT_RUN
    html_page.write(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "on Apple hardware" in page
    assert "no such unit" in page


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda r: r["packages"]["pruned"].update(sha256="0" * 64), UsageError),
        (lambda r: r.update(format="other"), FileError),
        (lambda r: r.update(units={"ALL": {"latency": {"pruned": {"p50_ms": "fast"}}}}), FileError),
        (lambda r: r.update(units={"ALL": {"load_ms": {"pruned": float("nan")}}}), FileError),
        (lambda r: r.update(placement=[7]), FileError),
        (lambda r: r.update(remote=3), FileError),
    ],
)
def test_a_result_that_does_not_fit_is_refused(run: Path, tmp_path: Path, change: Any, error: type[Exception]):
    """Pins a traceback, or foreign numbers in a report, for a file that came by mail."""
    digest = files.sha256(run / "artifacts/model.mlpackage")
    result: dict[str, Any] = {
        "format": run_on_mac.FORMAT, "packages": {"pruned": {"sha256": digest}}, "machine": {"chip": "Apple M4"},
        "units": {}, "placement": [],
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert mac_results.merged(_report(), run, tmp_path / "result.json").targets[0].devices[0].machine == "Apple M4"
    change(result)
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(error):
        mac_results.merged(_report(), run, tmp_path / "result.json")


@pytest.mark.parametrize(
    ("text", "told"), [("dear all", "is no JSON"), ("[]", "no result of a Mac kit"), (None, "No such")]
)
def test_another_file_in_the_place_of_the_result_is_told_which_one_is_wanted(
    tmp_path: Path, text: str | None, told: str
):
    """Pins "Expecting value: line 1 column 1" for a text file given to --merge."""
    path = tmp_path / "mail.txt"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=told) as caught:
        mac_results.merged(_report(), tmp_path, path)
    assert "result.json that run_on_mac.py" in str(caught.value.hint)


def test_pictures_keep_their_colours():
    """Pins red for blue in packages that want BGR: Core ML swaps a picture's channels itself."""
    pixels = np.stack([np.full((2, 2), value) for value in (10.0, 20.0, 300.0)])
    assert run_on_mac.picture(pixels, "RGB").getpixel((0, 0)) == (10, 20, 255)
    assert run_on_mac.picture(pixels, "BGR").getpixel((0, 0)) == (255, 20, 10)
    assert run_on_mac.picture(pixels[:1], "GRAYSCALE").getpixel((1, 1)) == 10
    assert run_on_mac.in_order({"b": 2.0, "a": 1.0}, ["a", "b"]).tolist() == [1, 2]

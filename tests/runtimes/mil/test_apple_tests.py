"""A sample of Apple's own operator tests, run with our interpreter in the place of Core ML."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Why a test of Apple's may fail here. Anything else is a difference in meaning.
EXPECTED = {
    r"TestRandom": "random numbers are refused",
    r"NormalizationLocalResponseNorm::test_builder_to_backend_smoke": "contradicts the documentation",
    r"iOS15.*TestCropResize::test_builder_to_backend_smoke": "a box outside the documented interval",
    r"TestCropResize::test_builder_to_backend_ios16": "a typing error: 7.899 for 7.9",
    r"TestScatter.*::test_ios17_invalid_indices": "indices whose result is not defined are refused",
    r"TestSliceByIndex::test_(slice_by_index|efficient)": "asserts on names or on seconds, or never writes a package",
    r"TestConv::test_type_inference_dynamic_x_with_groups": "never writes a package",
    r"TestResample::": "counts the casts of coremltools, which differ by the passes of the day",
}


@pytest.mark.parametrize("opset", ["iOS14", "iOS15", "iOS16", "iOS17", "iOS18"])
def test_apples_tests_pass(opset: str, tmp_path: Path):
    """Pins a meaning of an operator that Apple's expected results, made on Macs, contradict."""
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.runtimes.mil.apple_tests", "-p", "no:anyio", "-p",
        "no:cacheprovider", "-W", "ignore", "--import-mode=importlib", "-c", os.devnull, "--rootdir", str(tmp_path),
        "-q", "-rf", "--tb=no", "--pyargs", f"coremltools.converters.mil.mil.ops.tests.{opset}",
    ]  # fmt: skip
    environment = {"APPLE_TESTS_EACH": "3", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=tmp_path
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    surprises = [line for line in failed if not any(re.search(rule, f"{opset} {line}") for rule in EXPECTED)]
    assert not surprises, "\n".join(surprises)
    found = re.search(r"(\d+) packages were run", done.stdout)
    assert found is not None, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(found[1]) >= 10

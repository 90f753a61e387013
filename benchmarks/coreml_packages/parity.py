"""Outputs of the interpreted package against PyTorch in float32, relative to max|y|."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.coreml_packages.packages import feed, write
from benchmarks.coreml_packages.subjects import program
from pdp_export.runtimes import coreml_package


def measure(name: str) -> dict[str, Any]:
    """Return the errors of one network, 75 % zeros, in fp32 and fp16, and the operators that its file holds."""
    subject, inputs = program(name, 0.75)
    with torch.no_grad():
        made = subject.module()(*inputs)
    expected = made if isinstance(made, torch.Tensor) else next(iter(made.values() if isinstance(made, dict) else made))
    row: dict[str, Any] = {"network": name, "operators": {}}
    for precision in ("fp32", "fp16"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            request, _ = write(subject, path, encoding="auto", precision=precision)
            row["operators"] |= coreml_package.describe(path).operators
            session = coreml_package.open_session(path)
            got = session.run(feed(request, inputs))[request.outputs[0]]
        row[f"{precision}_of_range"] = float(np.abs(got - expected.numpy()).max() / np.abs(expected.numpy()).max())
    row["operators"] = sorted(row["operators"])
    return row

"""Imported once by the fork server: everything that a run imports, so that a forked run imports nothing.

One thread only: no pool of OpenMP exists when the server forks, so a fork of it is as good as a fresh process.
"""

from __future__ import annotations

import importlib
import os

import torch
from torch import nn

from pdp_export.removal import simplify

SERVER = os.getpid()

torch.set_num_threads(1)
for name in (
    "lightning_fabric", "matplotlib.pyplot", "onnx", "onnxruntime", "onnxscript", "torch.export", "torch.onnx",
    "torch.onnx._internal.exporter._core", "pdp_export.cli.main", "pdp_export.cli.result_output",
    "pdp_export.cli.drawing", "pdp_export.cli.recipes", "pdp_export.pipeline.api", "pdp_export.pipeline.conversion",
    "pdp_export.converters.onnx_export", "pdp_export.runtimes.onnx_runtime", "pdp_export.validation.run_file",
    *(f"pdp_export.pipeline.{stage}" for stage in (
        "check", "dense", "prune", "harden", "remove", "convert", "validate", "bench", "summarise")),
):  # fmt: skip
    importlib.import_module(name)

# The first capture in a process sets up half a second's worth of tables.
simplify(
    nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval(),
    (torch.zeros(2, 1, 2, 2),), {0: {0: "batch"}},
)  # fmt: skip

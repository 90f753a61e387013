"""The interpreter's time against PyTorch eager: MobileNet-v2 at 224 x 224, one sample, one thread, interleaved."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.coreml_packages.packages import feed, write
from pdp_export.graph.capture import capture
from pdp_export.removal import simplify
from pdp_export.runtimes import coreml_package
from sample_models.mobilenet_v2 import mobilenet_v2

ROUNDS = 40


def measure() -> dict[str, Any]:
    """Return medians in milliseconds, and their ratios to eager code, round by round."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = mobilenet_v2(classes=1000).eval()
    image = torch.randn(1, 3, 224, 224)
    program = simplify(capture(model, (image,)), (image,))
    folded = program.module()
    arms: dict[str, Any] = {"eager": lambda: model(image), "eager_folded": lambda: folded(image)}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "fp16"):
            path = Path(folder) / f"{precision}.mlpackage"
            request, _ = write(program, path, encoding="dense", precision=precision)
            session = coreml_package.open_session(path)
            inputs = feed(request, (image,))
            arms[f"interpreter_{precision}"] = lambda session=session, inputs=inputs: session.run(inputs)
        times = _times(arms)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "rounds": ROUNDS,
        "threads": 1,
        "median_ms": {name: round(value, 2) for name, value in medians.items()},
        "ratio_to_eager": {
            name: round(statistics.median(a / b for a, b in zip(times[name], times["eager"], strict=True)), 3)
            for name in arms
        },
    }


def _times(arms: dict[str, Any]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in arms}
    with torch.no_grad():
        for round_number in range(ROUNDS + 3):
            for name, run in arms.items():
                start = time.perf_counter()
                run()
                if round_number >= 3:
                    found[name].append((time.perf_counter() - start) * 1e3)
    return found

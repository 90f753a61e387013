"""How long planning takes, and how that grows with the depth of a network."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.channel_removal import masks, ours, subjects
from benchmarks.channel_removal.case import Case
from pdp_export.removal import remove_channels

_GROWTH_SIZE = 64
"""Planning does not depend on the image; a small one keeps the proof out of the way."""


def whole(case: Case) -> dict[str, Any]:
    """Return the seconds of removal without measuring: planning, and all of it with capture and proof."""
    model, images = case.masked, case.images[:1]
    start, busy = time.perf_counter(), time.process_time()
    report = remove_channels(model, images, align=case.block).report
    total, cpu = time.perf_counter() - start, time.process_time() - busy
    plan = ours.estimated("onnxruntime")(case).facts
    return {
        "plan_s": plan["plan_s"],
        "plan_cpu_s": plan["plan_cpu_s"],
        "total_s": round(total, 3),
        "total_cpu_s": round(cpu, 3),
        "proof_error": report.proof_error,
    }


def growth(depth: int) -> dict[str, Any]:
    """Return the seconds of planning for ResNet-18 with every stage `depth` times as deep."""
    model = subjects.deep_resnet(depth)
    masks.mask(model, "columns", 0.37)
    subjects.calibrate(model, _GROWTH_SIZE)
    layers = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    image = (subjects.image(_GROWTH_SIZE),)
    made = ours.removed_from(model, image, ours.estimate(1))
    return {"layers": layers, "plan_s": made.facts["plan_s"], "plan_cpu_s": made.facts["plan_cpu_s"]}

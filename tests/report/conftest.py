"""A run report as a real run leaves it: four targets, each with another outcome."""

import numpy as np
import pytest

from pdp_export.measurements import (
    EnvironmentFacts,
    Interval,
    LatencyComparison,
    LatencyEnvironment,
    LatencyProtocol,
    LatencyResult,
    LayerSparsity,
    OutputParity,
    SizeResult,
    TargetResult,
    WeightCheck,
)
from pdp_export.recipe import GatesSection
from pdp_export.report.mask_figures import MaskFigures
from pdp_export.report.run_report import (
    DenseReference,
    EpochRecord,
    ModelCounts,
    Recalibration,
    RunReport,
    SoftHardGap,
)
from pdp_export.results import Check, FileFacts, Skipped, StageResult, TensorFacts, Verdict
from pdp_export.validation.accuracy import compare_predictions
from pdp_export.validation.gates import settle, worst
from pdp_export.validation.latency_statistics import compare, distrust, judge_ratio, summarise

GATES = GatesSection(max_accuracy_drop=0.02, min_size_ratio=4.0)
PROTOCOL = LatencyProtocol()


def _accuracy(seed, wrong=0.03):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 10, 1000)
    dense = np.where(generator.random(1000) < 0.97, truth, (truth + 1) % 10)
    pruned = np.where(generator.random(1000) < 1 - wrong, dense, (truth + 3) % 10)
    return compare_predictions(truth, dense, pruned, [f"digit {index}" for index in range(10)])


def _latency(seed, ratio, drift=0.012):
    generator = np.random.default_rng(seed)
    block = np.exp(0.05 * generator.standard_normal((40, 1)))
    dense, pruned = (
        scale * block * np.exp(0.03 * generator.standard_normal((40, 3))) for scale in (2.31, 2.31 * ratio)
    )
    dense[7, 1] *= 6
    control_aa = LatencyComparison(ratio=1.001, interval=Interval(low=0.991, high=1.012))
    environment = LatencyEnvironment(
        load_average_before=(0.4, 0.3, 0.2), affinity=(0, 1), drift=drift, throttled=drift > 0.05
    )
    comparison = compare(pruned, dense, 1000, 0)
    doubts = distrust(control_aa, environment, 40, "physical")
    verdict, reason = judge_ratio(comparison.interval, 1.0, doubts)
    return LatencyResult(
        runtime="onnxruntime", runtime_version="1.32.0", batch=1, protocol=PROTOCOL,
        dense=summarise(dense, 8.2, 31.0), pruned=summarise(pruned, 7.7, 29.4),
        comparison=comparison, control_aa=control_aa, environment=environment, verdict=verdict, reasons=(reason,),
    )  # fmt: skip


def _target(name, title, sizes, checks, **values):
    dense, pruned = sizes
    facts = FileFacts(
        format=name, file_bytes=pruned, inputs=(), outputs=(),
        tensors=tuple(
            TensorFacts(name=f"w{i}", shape=(64, 64), dtype="float32", stored_dtype="float32", encoding=encoding,
                        zeros=3686, elements=4096, stored_bytes=2000)
            for i, encoding in enumerate(("gap8",) * 20 + ("dense",) * 8)
        ),
    )  # fmt: skip
    size = SizeResult(
        pruned_bytes=pruned, pruned_gzip_bytes=int(pruned * 0.93), stored_densely_bytes=int(dense * 0.98),
        dense_bytes=dense, dense_gzip_bytes=int(dense * 0.92),
        ratio=dense / pruned, gzip_ratio=dense * 0.92 / int(pruned * 0.93),
    )  # fmt: skip
    checks = (
        *checks,
        _check("dtype"),
        _check("size", reason=f"{dense / pruned:.3g} times smaller than the dense file"),
    )
    result = TargetResult(
        target=name, title=title, file=f"artifacts/model.{name}", dense_file=f"artifacts/dense/model.{name}",
        verdict=Verdict.PASS, checks=checks, facts=facts, size=size, **values,
    )  # fmt: skip
    return settle(result, GATES)


def _parity(error, atol=1e-4):
    return (
        OutputParity(
            name="logits", elements=640, atol=atol, verdict=Verdict.PASS if error <= atol else Verdict.FAIL,
            reason="" if error <= atol else f"error {error:.3g} of max|y| is above atol {atol:.3g}",
            max_abs=error * 14, relative_to_range=error, max_rel=error * 80,
            max_rel_note="3 of 640 values below 0.001 of max|y| left out",
            cosine=1 - error**2, top1_agreement=1.0,
        ),
    )  # fmt: skip


def _weights(differing=0):
    return WeightCheck(
        verdict=Verdict.FAIL if differing else Verdict.PASS, tensors_expected=28, tensors_compared=28,
        reason=f"{differing} elements differ in 1 tensors, most in features.3.weight" if differing else "",
        elements=3_200_000, differing_elements=differing, zeros_expected=2_880_000, zeros_found=2_880_000,
    )  # fmt: skip


def _check(name, verdict=Verdict.PASS, reason=""):
    return Check(name=name, verdict=verdict, reason=reason)


def _targets():
    bad = _weights(2)
    mac = "Core ML files run on macOS only; the stored weights were checked"
    return (
        _target(
            "onnx", "ONNX", (12_810_000, 1_706_000), (_check("weights"), _check("parity")), weights=_weights(),
            parity=_parity(4.1e-7), accuracy=_accuracy(1, 0.002), latency=_latency(1, 0.97),
        ),
        _target(
            "coreml", "Core ML", (6_420_000, 1_210_000),
            (_check("weights"), *(_check(name, Verdict.NOT_RUN, mac) for name in ("parity", "accuracy", "latency"))),
            weights=_weights(),
        ),
        _target(
            "litert", "LiteRT", (12_790_000, 2_402_000), (_check("weights"), _check("parity")), weights=_weights(),
            parity=_parity(8.8e-7), accuracy=_accuracy(3, 0.012), latency=_latency(3, 0.55),
        ),
        _target(
            "mnn", "MNN", (12_700_000, 3_900_000),
            (_check("weights", Verdict.FAIL, bad.reason), _check("parity", Verdict.FAIL, _parity(3e-3)[0].reason)),
            weights=bad, parity=_parity(3e-3), accuracy=_accuracy(4, 0.08), latency=_latency(4, 0.7, drift=0.083),
        ),
    )  # fmt: skip


def _layers():
    generator = np.random.default_rng(0)
    layers = [
        LayerSparsity(
            layer="stem.conv", kind="Conv2d", shape_before=(32, 3, 3, 3), shape_after=(32, 3, 3, 3), achieved=0.0
        )
    ]
    for index in range(13):
        achieved = float(np.clip(0.9 + 0.08 * generator.standard_normal(), 0.4, 0.98))
        layers.append(
            LayerSparsity(
                layer=f"features.{index}.pointwise.conv", kind="Conv2d", shape_before=(128, 64, 1, 1),
                shape_after=(128, 64, 1, 1) if index % 4 else (96, 64, 1, 1), asked=0.9, achieved=achieved,
            )
        )  # fmt: skip
    gone = LayerSparsity(
        layer="classifier.branch", kind="Linear", shape_before=(10, 64), shape_after=None, asked=0.9, achieved=1.0
    )
    return (*layers, gone)


def _history():
    dense = [
        EpochRecord(
            epoch=i + 1,
            phase="dense",
            train_loss=2.0 / (i + 1),
            validation_metric=1 - 0.5 / (i + 1) ** 1.5,
            seconds=9.1,
        )
        for i in range(6)
    ]
    prune = [
        EpochRecord(
            epoch=i + 1, phase="prune", train_loss=0.2, validation_metric=0.965 - 0.01 * min(i, 3), seconds=10.2,
            sparsity_target=min(0.9, 0.18 * i), sparsity=min(0.9, 0.17 * i), learning_rate=0.01,
        )
        for i in range(8)
    ]  # fmt: skip
    return (*dense, *prune)


def mask(name, steps=8, **change):
    """One mask of the default preset over some epochs; the last one is the present state."""
    share = [min(0.9, 0.15 * step) for step in range(steps)]
    curves = {
        "sparsity": share,
        "threshold": [0.2 * part for part in share],
        "sharpness": [float(10 ** (3 * step / max(steps - 1, 1))) for step in range(steps)],
        "fuzzy": [0.3 / (1 + step) ** 2 for step in range(steps)],
        "churn": [None, *(0.2 / step for step in range(1, steps))],
        "gain": [0.5 + 10 ** (3 * step / max(steps - 1, 1)) / 2 for step in range(steps)],
    }
    last = {key: values[-1] for key, values in curves.items()}
    limits = {"sharpness": 100.0, "fuzzy": 0.1 * (1 - last["sparsity"])}
    values = {"name": name, "unit": "weights", "size": 8192, "asked": 0.9, "clip": 1.0, "gap": True}
    return MaskFigures.model_validate({**values, **last, "limits": limits, "curves": curves, **change})


def _masks():
    soft = mask(
        "features.7.pointwise", fuzzy=0.034, sharpness=9.3, dangers=("sharpness", "fuzzy", "gain"), clip=None,
        gain=5.15, limits={"sharpness": 100.0, "fuzzy": 0.01, "gain": 2.0},
    )  # fmt: skip
    return (mask("features.2.pointwise"), soft, *(mask(f"features.{index}.pointwise") for index in range(8, 12)))


@pytest.fixture(scope="session")
def report():
    return sample_report()


def sample_report(**change):
    targets = _targets()
    values = {
        "tool_version": "0.1.0",
        "created_utc": "2026-11-24T08:00:00Z",
        "name": "mobilenet-digits",
        "command": "pdp-export prune-and-convert --recipe recipe.yaml --output runs/mobilenet-digits",
        "verdict": worst(target.verdict for target in targets),
        "reasons": tuple(f"{target.target}: {reason}" for target in targets for reason in target.reasons),
        "recipe": {"name": "mobilenet-digits", "pruning": {"pattern": "unstructured", "sparsity": 0.9}},
        "environment": EnvironmentFacts(
            os="Linux 6.1", machine="x86_64", cpu="AMD EPYC 9R14", cpu_count=2, python="3.11.7", threads=1,
            versions={"torch": "2.13.0", "onnxruntime": "1.32.0", "coremltools": "9.0", "MNN": "3.6.1"},
        ),
        "dense_reference": DenseReference(source="trained by this recipe", value=0.973, n=1000),
        "counts_before": ModelCounts(macs=11_300_000, params=3_218_000, nonzero=3_218_000),
        "counts_after": ModelCounts(macs=10_100_000, params=2_990_000, nonzero=331_000),
        "stages": (
            StageResult(name="prune", seconds=93.4, summary="28 weights, 0.900 of them zero"),
            StageResult(name="convert", seconds=41.0, summary="onnx 1706 kB, coreml 1210 kB"),
        ),
        "layers": _layers(),
        "skipped": (Skipped(layer="stem.conv", stage="prune", reason="matches the ignore rule ^stem"),),
        "history": _history(),
        "masks": _masks(),
        "recalibration": Recalibration(before=0.9664, after=0.9681, layers=27, batches=4),
        "soft_hard_gap": SoftHardGap(soft_value=0.9671, hard_value=0.9664, n=1000),
        "targets": targets,
        "gates": tuple(gate for target in targets for gate in target.gates),
        "warnings": ("onnx: unstructured zeros save bytes on disk, not time: this runtime has no sparse kernels",),
    }  # fmt: skip
    return RunReport.model_validate({**values, **change})

"""What was measured, as frozen records that travel as JSON. Start with `TargetResult`.

Units are in the names (``_bytes``, ``_ms``, ``_seconds``); fractions are 0..1; a value that was not
read is None, never guessed; NaN and infinity are refused, so every record is plain JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict, Field

from pdp_export.results import Check, FileFacts, Record, Verdict

Execution = Literal["physical", "emulated", "browser"]


class Measurement(Record):
    """Base of the records here: frozen, and finite numbers only."""

    model_config = ConfigDict(allow_inf_nan=False)


class Interval(Measurement):
    """A two-sided confidence interval, 95 % unless said."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether `value` lies inside, bounds included."""
        return self.low <= value <= self.high


class OutputParity(Measurement):
    """One output of a file against the PyTorch model on the same inputs.

    `relative_to_range` is max|got - y| / max|y|, and is what `atol` bounds. `max_rel` is the largest
    |got - y| / |y| over the elements that are not near zero; `max_rel_note` says what was left out,
    or why it is None. `top1_agreement` is the share of rows with the same largest entry, for outputs
    of shape (N, classes). A value that is not finite fails, and leaves the figures None.
    """

    name: str
    elements: int
    atol: float
    verdict: Verdict
    reason: str = ""
    max_abs: float | None = None
    relative_to_range: float | None = None
    max_rel: float | None = None
    max_rel_note: str = ""
    cosine: float | None = None
    top1_agreement: float | None = None


class WeightCheck(Measurement):
    """The weights stored in a file against the PyTorch weights, bit by bit after rounding to the stored dtype.

    `unmatched` names the expected weights that the file does not hold.
    """

    verdict: Verdict
    reason: str = ""
    tensors_expected: int = 0
    tensors_compared: int = 0
    elements: int = 0
    differing_elements: int = 0
    zeros_expected: int = 0
    zeros_found: int = 0
    unmatched: tuple[str, ...] = ()


class ClassAccuracy(Measurement):
    """Correct predictions of one class; `drop` is dense minus pruned accuracy in this class."""

    label: str
    n: int
    dense_correct: int
    pruned_correct: int
    drop: float


class AccuracyResult(Measurement):
    """The pruned file against the dense model on the same validation samples.

    `drop` is dense minus pruned (positive: something was lost), `drop_interval` its paired 95 %
    interval by `interval_method`. The counts of predictions are None for a metric that is not a
    share of correct answers. `lost` were right and are wrong now, `gained` the other way round,
    `other_flips` are wrong before and after, but differently.
    """

    metric: str = "accuracy"
    n: int
    dense_value: float
    pruned_value: float
    drop: float
    drop_interval: Interval | None = None
    interval_method: str = ""
    dense_correct: int | None = None
    pruned_correct: int | None = None
    lost: int | None = None
    gained: int | None = None
    other_flips: int | None = None
    per_class: tuple[ClassAccuracy, ...] = ()


class SizeResult(Measurement):
    """Bytes on disk and after gzip -6. Ratios are dense / pruned: above 1 the pruned file is smaller.

    `stored_densely_bytes` is the pruned file if all its tensors were stored without an encoding: the
    step between removing channels and encoding zeros. `dense_*` are None without a dense file.
    """

    pruned_bytes: int
    pruned_gzip_bytes: int
    stored_densely_bytes: int | None = None
    dense_bytes: int | None = None
    dense_gzip_bytes: int | None = None
    ratio: float | None = None
    gzip_ratio: float | None = None


class LatencyProtocol(Measurement):
    """How latency is measured: `blocks` blocks, each arm `runs_per_block` runs in a row, arms in random order."""

    warmup: int = Field(default=5, ge=1)
    blocks: int = Field(default=40, ge=2)
    runs_per_block: int = Field(default=3, ge=1)
    seed: int = 0
    threads: int = Field(default=1, ge=1)
    bootstrap: int = Field(default=4000, ge=100)
    clock: str = "perf_counter_ns"
    includes: str = "inference call only"


class LatencyArm(Measurement):
    """One file: milliseconds per inference, `samples_ms` of shape (blocks, runs_per_block).

    `p99_ms` is None below 1000 samples. `first_ms` is the very first inference after loading.
    """

    samples_ms: tuple[tuple[float, ...], ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float | None = None
    mean_ms: float
    std_ms: float
    first_ms: float
    load_ms: float


class LatencyComparison(Measurement):
    """median(numerator) / median(denominator) with its block-bootstrap 95 % interval."""

    ratio: float
    interval: Interval


class LatencyEnvironment(Measurement):
    """The state of the machine around a latency measurement. None: this machine does not tell.

    `drift` is the last third of the blocks against the first, as a fraction; the largest of the arms.
    """

    governor: str | None = None
    affinity: tuple[int, ...] = ()
    frequency_khz_before: tuple[int, ...] = ()
    frequency_khz_after: tuple[int, ...] = ()
    temperature_c_before: float | None = None
    temperature_c_after: float | None = None
    load_average_before: tuple[float, ...] = ()
    load_average_after: tuple[float, ...] = ()
    drift: float = 0.0
    throttled: bool = False


class LatencyResult(Measurement):
    """Pruned against dense, interleaved in one process, with an A/A control (dense against dense).

    `comparison` is pruned / dense: below 1 the pruned file is faster. `verdict` answers "is the
    pruned file shown to be faster here?": PASS yes, FAIL shown not to be, INCONCLUSIVE undecided.
    """

    device: str = "this machine"
    execution: Execution = "physical"
    runtime: str
    runtime_version: str
    batch: int
    protocol: LatencyProtocol
    dense: LatencyArm
    pruned: LatencyArm
    comparison: LatencyComparison
    control_aa: LatencyComparison
    environment: LatencyEnvironment
    verdict: Verdict
    reasons: tuple[str, ...] = ()


class GateResult(Measurement):
    """One limit of the recipe against one measured value. `target` is None for the whole run."""

    gate: Literal["atol", "max_accuracy_drop", "max_latency_ratio", "min_size_ratio"]
    target: str | None = None
    limit: float
    value: float | None = None
    interval: Interval | None = None
    verdict: Verdict
    reason: str = ""


class LayerSparsity(Measurement):
    """One weight tensor in PyTorch layout before and after the run.

    `asked` and `achieved` are fractions of zeros in the weight of `shape_before`; elements that were
    removed physically count as zeros achieved. `shape_after` is None for a layer that is gone.
    """

    layer: str
    kind: str = ""
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...] | None = None
    asked: float | None = None
    achieved: float


class UnitResult(Measurement):
    """What Core ML did on one choice of compute units; times in milliseconds, for ``pruned`` and ``dense``.

    `relative_error` is the worst output's, relative to max|y|. `error` says why there is nothing else.
    """

    units: str
    relative_error: float | None = None
    p50_ms: Mapping[str, float] = Field(default_factory=dict)
    p90_ms: Mapping[str, float] = Field(default_factory=dict)
    load_ms: Mapping[str, float] = Field(default_factory=dict)
    runs: int = 0
    error: str = ""


class Placement(Measurement):
    """Where Core ML means to run how many operators, and their estimated share of the cost."""

    device: str
    operators: int
    cost: float


class DeviceResult(Measurement):
    """What a colleague's Mac, or a device connected to it, sent back about one package."""

    machine: str
    system: str
    coremltools: str
    units: tuple[UnitResult, ...] = ()
    placement: tuple[Placement, ...] = ()


class TargetResult(Measurement):
    """One written file, re-opened from the disk, with every check that was asked for.

    `checks` holds one verdict for each of ``weights``, ``dtype``, ``parity`` and ``size``; a check that
    could not run is there as NOT_RUN with its reason, and its measurement is None. ``accuracy`` and
    ``latency`` are judged by gates: they are among the checks only where they could not be measured
    (NOT_RUN) or the runtime died of it (FAIL). `remarks` judge nothing. `file` and `dense_file` are relative to the run
    directory. `devices` is what other machines measured and sent back; it changes no verdict.
    """

    target: str
    title: str = ""
    precision: str = "fp32"
    encoding: str = "auto"
    file: str
    dense_file: str | None = None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    gates: tuple[GateResult, ...] = ()
    facts: FileFacts | None = None
    weights: WeightCheck | None = None
    parity: tuple[OutputParity, ...] = ()
    accuracy: AccuracyResult | None = None
    size: SizeResult | None = None
    latency: LatencyResult | None = None
    remarks: tuple[str, ...] = ()
    devices: tuple[DeviceResult, ...] = ()


class EnvironmentFacts(Measurement):
    """Where the run happened. Never holds a host name, a user name or an absolute path."""

    os: str
    machine: str
    cpu: str
    cpu_count: int
    python: str
    versions: Mapping[str, str] = Field(default_factory=dict)
    threads: int | None = None
    device: str = "cpu"

"""What a child process does with a written file: describe it, check its weights, run it, measure it.

Native readers may crash or print, so `isolated.py` calls these by name in a child (see `isolation`).
Arguments and results are JSON; arrays travel as safetensors files, which hold any name and no code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from pdp_export.errors import NotRunnableError
from pdp_export.measurements import LatencyProtocol
from pdp_export.runtimes import registry
from pdp_export.validation import feeding, latency
from pdp_export.validation.weight_check import check_stored_weights


def describe_file(target: str, path: str) -> dict[str, Any]:
    """Return the `FileFacts` of a file as JSON."""
    return registry.load(target).describe(Path(path)).model_dump(mode="json")


def remarks(target: str, path: str) -> list[str]:
    """Return what the runtime has to say about a file besides facts; nothing for most."""
    found = getattr(registry.load(target), "remarks", None)
    return list(found(Path(path))) if found else []


def check_weights(target: str, path: str, expected: str) -> dict[str, Any]:
    """Compare the stored weights with those in the safetensors file `expected`; a `WeightCheck` as JSON."""
    stored = registry.load(target).weights(Path(path))
    return check_stored_weights(load_file(expected), stored).model_dump(mode="json")


def run_file(
    target: str, path: str, *, inputs: str, outputs: str, output_names: list[str], threads: int, batch: int
) -> dict[str, str]:
    """Run every sample of the safetensors file `inputs` and write the outputs to `outputs`."""
    runtime = registry.load(target)
    session = runtime.open_session(Path(path), threads=threads)
    results = feeding.run_batches(session, load_file(inputs), output_names, batch)
    save_file({name: feeding.contiguous(value) for name, value in results.items()}, outputs)
    return {"runtime": runtime.NAME, "version": runtime.version()}


def bench_pair(
    target: str, *, dense: str, pruned: str, inputs: str, protocol: dict[str, Any], batch: int
) -> dict[str, Any]:
    """Measure `pruned` against `dense`, interleaved in this process; a `LatencyResult` as JSON."""
    runtime = registry.load(target)
    untimed = runtime.execution().why_not_timed
    if untimed:
        raise NotRunnableError(untimed, where=Path(pruned).name, hint="measure on a Mac or a device")
    parsed = LatencyProtocol.model_validate(protocol)
    arrays = load_file(inputs)
    sizes: set[int] = set()

    def opener(path: str) -> Callable[[], latency.Work]:
        def open_file() -> latency.Work:
            session = runtime.open_session(Path(path), threads=parsed.threads)
            feed, size = feeding.first_batch(session, arrays, batch)
            sizes.add(size)
            return lambda: session.run(feed)

        return open_file

    result = latency.measure(
        {"dense": opener(dense), "control": opener(dense), "pruned": opener(pruned)},
        parsed,
        runtime=runtime.NAME,
        runtime_version=runtime.version(),
    )
    return result.model_copy(update={"batch": max(sizes)}).model_dump(mode="json")

"""Opens a variant in a runtime: a function from an input to an output, one thread."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET = 17
_GATHERS = ("Gather", "Slice")


@dataclass(frozen=True)
class Opened:
    """A variant ready to run; `gathers` counts nodes that select channels, where the graph is known."""

    run: Callable[[Tensor], Tensor]
    repeat: Callable[[], object]
    gathers: int | None = None


def eager(module: nn.Module, image: Tensor) -> Opened:
    """Open a module in torch."""

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(x)  # type: ignore[no-any-return]

    return Opened(run, lambda: run(image))


def onnx_runtime(module: nn.Module, image: Tensor) -> Opened:
    """Open a module in ONNX Runtime, through torch's older exporter, which takes every variant as it is."""
    import onnx
    import onnxruntime

    content = _exported(module, image)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (name,) = (item.name for item in session.get_inputs())
    feed = {name: image.numpy()}
    counts = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    return Opened(
        lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]),
        lambda: session.run(None, feed),
        sum(counts[kind] for kind in _GATHERS),
    )


def native(program: ExportedProgram, target: str, image: Tensor, folder: Path) -> Opened:
    """Convert a program for a target and open the file in the target's own runtime."""
    from pdp_export.converters import registry as converters
    from pdp_export.native_output import stdout_to_stderr
    from pdp_export.results import TensorSpec
    from pdp_export.runtimes import registry as runtimes
    from pdp_export.targets import ConvertRequest
    from pdp_export.validation.feeding import first_batch, run_batches

    suffix = next(suffix for suffix, name in runtimes.SUFFIXES.items() if name == target)
    path = folder / f"model{suffix}"
    spec = TensorSpec(name="image", shape=tuple(image.shape), dtype="float32", layout="NCHW")
    with stdout_to_stderr():
        converters.load(target).convert(program, path, ConvertRequest(inputs=(spec,), outputs=("logits",)))
        session = runtimes.load(target).open_session(path, threads=1)
    feed, _ = first_batch(session, {"image": image.numpy()}, 1)

    def run(x: Tensor) -> Tensor:
        found: np.ndarray[Any, Any] = run_batches(session, {"image": x.numpy()}, ("logits",), 1)["logits"]
        return torch.from_numpy(np.ascontiguousarray(found))

    return Opened(run, lambda: session.run(feed))


def _exported(module: nn.Module, image: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch calls this exporter old
        torch.onnx.export(module, (image,), buffer, dynamo=False, opset_version=OPSET)  # type: ignore[arg-type]
    return buffer.getvalue()

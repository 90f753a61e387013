"""The validation set for runtimes: real inputs in bounded chunks, and the dense model's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pdp_export.errors import DataError
from pdp_export.measurements import AccuracyResult
from pdp_export.tasks.data import unpack
from pdp_export.tasks.objective import named_outputs
from pdp_export.validation.accuracy import compare_predictions, compare_scores

if TYPE_CHECKING:
    from torch import nn

    from pdp_export.pipeline.context import Context

Array = np.ndarray[Any, Any]
CHUNK_BYTES = 256 << 20
PARITY_SAMPLES = 64


class ValidationSet:
    """The validation loader seen as chunks of arrays, with the dense model's scores and predictions.

    Raises:
        DataError: when the loader gives other samples the second time.
    """

    def __init__(self, context: Context, dense: nn.Module) -> None:
        self._context = context
        self._names = [item.name for item in context.recipe.inputs]
        self._targets, self._scores, self._predictions = self._answers(dense.eval())

    def chunks(self) -> Iterator[dict[str, Array]]:
        """Yield the inputs by name, some hundred megabytes at a time."""
        parts: list[tuple[Array, ...]] = []
        size = 0
        for inputs, _ in self._batches():
            parts.append(tuple(tensor.numpy() for tensor in inputs))
            size += sum(array.nbytes for array in parts[-1])
            if size > CHUNK_BYTES:
                yield self._joined(parts)
                parts, size = [], 0
        if parts:
            yield self._joined(parts)

    def samples(self, count: int = PARITY_SAMPLES) -> dict[str, Array]:
        """Return the first real samples, for the comparison of outputs."""
        first = next(self.chunks())
        return {name: array[:count] for name, array in first.items()}

    def judge(self, outputs: Mapping[str, Array]) -> AccuracyResult:
        """Compare a file's outputs on the whole set with the dense model: metric, flips, classes."""
        objective, recipe = self._context.objective, self._context.recipe
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in outputs.items()}
        if objective.classifies:
            predictions = objective.predictions(self._as_model_output(tensors)).numpy()
            truth = np.concatenate([target.numpy() for target in self._targets])
            return compare_predictions(truth, self._predictions, predictions, recipe.preprocessing.labels)
        start, scores = 0, []
        for target in self._targets:
            part = {name: tensor[start : start + len(target)] for name, tensor in tensors.items()}
            scores.append(objective.scores(self._as_model_output(part), target).numpy())
            start += len(target)
        return compare_scores(recipe.task.metric, self._scores, np.concatenate(scores))

    def _as_model_output(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        names = self._context.recipe.outputs
        return tensors[names[0]] if len(names) == 1 else tuple(tensors[name] for name in names)

    def _batches(self) -> Iterator[tuple[tuple[torch.Tensor, ...], Any]]:
        for batch in self._context.data.validation:
            yield unpack(batch, self._names)

    def _joined(self, parts: list[tuple[Array, ...]]) -> dict[str, Array]:
        return {
            name: np.concatenate(arrays) for name, arrays in zip(self._names, zip(*parts, strict=True), strict=True)
        }

    def _answers(self, dense: nn.Module) -> tuple[list[Any], Array, Array]:
        objective = self._context.objective
        targets, scores, predictions = [], [], []
        with torch.no_grad():
            for inputs, target in self._batches():
                outputs = dense(*inputs)
                targets.append(target)
                scores.append(objective.scores(outputs, target).numpy())
                if objective.classifies:
                    predictions.append(objective.predictions(outputs).numpy())
        again = next(self._batches())[1]
        if isinstance(again, torch.Tensor) and not torch.equal(again, targets[0]):
            raise DataError(
                "the validation loader gives other samples each time it is read",
                where="data.factory: validation", hint="do not shuffle or augment validation data",
            )  # fmt: skip
        empty = np.zeros(0, dtype=np.int64)
        return targets, np.concatenate(scores), np.concatenate(predictions) if predictions else empty


def reference_outputs(
    module: Callable[..., Any], inputs: Mapping[str, Array], names: tuple[str, ...]
) -> dict[str, Array]:
    """Return the PyTorch program's outputs by name."""
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(array) for array in inputs.values()))
    return {name: tensor.numpy() for name, tensor in named_outputs(outputs, names).items()}

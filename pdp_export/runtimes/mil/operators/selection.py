"""Choices among elements: conditions, order, overlap and labels.

Meaning: coremltools ``mil/ops/defs/iOS15`` and ``iOS17/tensor_operation.py``, ``iOS15/control_flow.py`` (select),
``iOS15/classify.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import IOS17, check_size, operator
from pdp_export.runtimes.mil.types import torch_type


@operator("select")
def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Elements of `a` where the condition holds, else of `b`; without both, the indices where it holds."""
    if a is None or b is None:
        return non_zero(cond)
    return torch.where(cond.bool(), a, b)


@operator("non_zero")
def non_zero(x: Tensor) -> Tensor:
    """Indices of the elements that are not zero, one row each."""
    return torch.nonzero(x).to(torch.int32)


@operator("argsort")
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices in the order of values, descending by default."""
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices.to(torch.int32)


@operator("topk")
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """The `k` largest (or, ascending, smallest) values along an axis in order, and their indices; -1 takes all."""
    del sort  # without it any order is right
    order = torch.sort(x, dim=axis, descending=not ascending, stable=True).indices
    chosen = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = torch.take_along_dim(x, chosen, axis)
    return (values, chosen.to(torch_type(output_indices_dtype))) if return_indices else (values,)


@operator("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    opset: int,
    score_threshold: float | None = None,
    per_class_suppression: bool = False,
) -> tuple[Tensor, ...]:
    """Keep the boxes (centre x, y, width, height) that no better box overlaps by more than the threshold.

    iOS 15: boxes (n, B, 4), scores (n, B, K), and the number of kept boxes as fourth result; the best box is kept even
    where no score passes. iOS 17: (n, 4, B) and (n, K, B), no threshold of scores. Free places hold zeros, index -1.
    """
    check_size([len(boxes), max_boxes, 4 + scores.shape[1 if opset >= IOS17 else 2]])
    if opset >= IOS17:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    samples = [
        _kept_boxes(own, points, iou_threshold, max_boxes, score_threshold, per_class_suppression)
        for own, points in zip(boxes, scores, strict=True)
    ]
    kept_boxes = torch.stack([_filled(own[kept], max_boxes) for own, kept in zip(boxes, samples, strict=True)])
    kept_scores = torch.stack([_filled(own[kept], max_boxes) for own, kept in zip(scores, samples, strict=True)])
    indices = torch.full((len(samples), max_boxes), -1, dtype=torch.int32)
    for row, kept in zip(indices, samples, strict=True):
        row[: len(kept)] = kept.int()
    if opset >= IOS17:
        return kept_boxes.transpose(1, 2), kept_scores.transpose(1, 2), indices
    return kept_boxes, kept_scores, indices, torch.tensor([len(kept) for kept in samples], dtype=torch.int32)


def _kept_boxes(
    boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int, score_threshold: float | None, per_class: bool
) -> Tensor:
    best, classes = scores.max(-1)
    order = torch.sort(best, dim=0, descending=True, stable=True).indices
    overlaps = _overlaps(boxes)
    kept: list[int] = []
    for index in order.tolist():
        if len(kept) == limit:
            break
        rivals = [other for other in kept if not per_class or classes[other] == classes[index]]
        passes = score_threshold is None or float(best[index]) > score_threshold
        if passes and not any(float(overlaps[index, other]) > iou_threshold for other in rivals):
            kept.append(index)
    return torch.tensor(kept or order.tolist()[:1], dtype=torch.long)


def _overlaps(boxes: Tensor) -> Tensor:
    """Return intersection over union of every pair of boxes."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    low, high = centre - size / 2, centre + size / 2
    inside = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0).prod(-1)
    area = size.prod(-1)
    union = area[:, None] + area - inside
    return torch.where(union > 0, inside / union, 0.0)


def _filled(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


@operator("classify")
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, Any]:
    """The label of the largest probability, and the probability of every label."""
    labels = classes.tolist() if isinstance(classes, Tensor) else list(classes)
    values = probabilities.reshape(-1).tolist()
    if len(labels) != len(values):
        raise ValueError(f"{len(values)} probabilities for {len(labels)} labels")
    return labels[int(probabilities.reshape(-1).argmax())], dict(zip(labels, values, strict=True))

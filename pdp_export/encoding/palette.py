"""Palettes: every weight as the index of one of 2^bits values, found by k-means on the line.

Zeros are no part of the palette: a mask or one entry of their own keeps them. Negative and positive weights have
entries of their own, so that no weight changes sign or becomes zero. Deterministic (running sums in a fixed order), so
that a stored file can be compared bit by bit with what these functions make of the original weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_ROUNDS = 300


@dataclass(frozen=True, eq=False)
class Palette:
    """`entries` (2^bits,) in the dtype of the weights, `indices` uint8 in their shape; zeros have index `zero`."""

    entries: Array
    indices: Array
    zero: int


def encode(weights: Array, bits: int) -> Palette:
    """Find the palette of a float16 or float32 tensor.

    Where the tensor has zeros, entry 0 is zero, and the others serve the other weights.
    """
    flat = weights.ravel()
    nonzero = flat != 0
    reserved = int(not nonzero.all())
    found = _entries(flat[nonzero], (1 << bits) - reserved, weights.dtype)
    filled = np.concatenate([np.zeros(reserved, weights.dtype), found])
    entries = np.concatenate([filled, np.repeat(filled[-1:], (1 << bits) - filled.size)]) if filled.size else filled
    indices = np.zeros(flat.shape, np.uint8)
    if found.size:
        indices[nonzero] = _nearest(flat[nonzero], found) + reserved
    return Palette(entries, indices.reshape(weights.shape), 0)


def encode_nonzero(weights: Array, bits: int) -> Palette:
    """Find the palette of the non-zero weights alone, for use beside a mask; zeros get index 0 and mean nothing."""
    nonzero = weights != 0
    found = _entries(weights[nonzero], 1 << bits, weights.dtype)
    if not found.size:
        found = np.zeros(1, weights.dtype)
    indices = np.zeros(weights.shape, np.uint8)
    indices[nonzero] = _nearest(weights[nonzero], found)
    return Palette(np.concatenate([found, np.repeat(found[-1:], (1 << bits) - found.size)]), indices, 0)


def decode(codes: Palette) -> Array:
    """Return the weights that the indices stand for (of `encode`)."""
    return codes.entries[codes.indices]


def decode_nonzero(codes: Palette, mask: Array) -> Array:
    """Return the weights where the mask (bool, their shape) is set, zeros elsewhere."""
    return np.where(mask, codes.entries[codes.indices], np.zeros(1, codes.entries.dtype))


def _entries(weights: Array, count: int, dtype: np.dtype[Any]) -> Array:
    """Return at most `count` different values in ascending order, shared out by how many weights have each sign."""
    values, counts = np.unique(weights.astype(np.float64), return_counts=True)
    if values.size <= count:
        return values.astype(dtype)
    split = int(np.searchsorted(values, 0.0))
    below = int(counts[:split].sum())
    left = round(count * below / int(counts.sum()))
    left = min(max(left, int(split > 0)), count - int(split < values.size), split)
    right = min(count - left, values.size - split)
    parts = [
        _means(values[:split], counts[:split], min(count - right, split)), _means(values[split:], counts[split:], right)
    ]  # fmt: skip
    rounded = np.concatenate(parts).astype(dtype)
    return np.unique(rounded[rounded != 0])


def _means(values: Array, counts: Array, clusters: int) -> Array:
    """Cluster sorted values with their counts: Lloyd's rounds, from clusters that are wider where values are rare.

    Their number per interval grows as the root of the density, between equal counts and equal widths: close to what is
    best for long tails (Panter and Dite 1951), and the root is exact on every machine.
    """
    if values.size <= clusters:
        return values
    numbers = np.concatenate([[0], np.cumsum(counts)]).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values * counts)])
    shares = np.concatenate([[0.0], np.cumsum(np.sqrt(counts * np.gradient(values)))])
    targets = shares[-1] * np.arange(1, clusters) / clusters
    edges = np.concatenate([[0], np.searchsorted(shares, targets), [values.size]])
    means = _cluster_means(edges, numbers, sums)
    for _ in range(_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(values, (means[1:] + means[:-1]) / 2), [values.size]])
        renewed = _cluster_means(edges, numbers, sums)
        if np.array_equal(renewed, means):
            break
        means = renewed
    return means


def _cluster_means(edges: Array, numbers: Array, sums: Array) -> Array:
    filled = edges[:-1] < edges[1:]
    low, high = edges[:-1][filled], edges[1:][filled]
    means: Array = (sums[high] - sums[low]) / (numbers[high] - numbers[low])
    return means


def _nearest(weights: Array, entries: Array) -> Array:
    wide = entries.astype(np.float64)
    middles = (wide[1:] + wide[:-1]) / 2
    return np.searchsorted(middles, weights.astype(np.float64)).astype(np.uint8)

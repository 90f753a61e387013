"""Element-wise operators, activations and casts; results with numpy from the documentation of each operator."""

from __future__ import annotations

import math

import numpy as np

from tests.runtimes.mil.builder import Case

R = np.random.default_rng(0)
X = R.standard_normal((2, 3, 4)).astype(np.float32) * 2
Y = R.standard_normal((3, 1)).astype(np.float32)
U = R.uniform(-0.9, 0.9, (2, 5)).astype(np.float32)
P = R.uniform(0.1, 3, (2, 5)).astype(np.float32)
I = np.array([[-7, 7, 3], [5, -2, 9]], np.int32)  # noqa: E741
J = np.array([2, -3, 4], np.int32)
B = R.random((2, 3)) > 0.5
C = R.random((2, 3)) > 0.5
IMAGE = R.standard_normal((2, 3, 4, 5)).astype(np.float32)
ALPHA = np.array([0.1, 0.5, 2.0], np.float32)
BETA = np.array([1.5, 0.3, 0.7], np.float32)
erf = np.vectorize(math.erf)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channels(v):
    return v.reshape(1, 3, 1, 1)


def unary(name, expected, x=X, **changes):
    return Case(name, lambda mb, v: getattr(mb, name)(x=v, **changes), (x,), expected)


def binary(name, expected, x=X, y=Y):
    return Case(name, lambda mb, a, b: getattr(mb, name)(x=a, y=b), (x, y), expected)


CASES = [
    unary("abs", np.abs), unary("acos", np.arccos, U), unary("asin", np.arcsin, U), unary("atan", np.arctan),
    unary("atanh", np.arctanh, U), unary("ceil", np.ceil), unary("cos", np.cos), unary("cosh", np.cosh),
    unary("erf", erf), unary("exp", np.exp), unary("exp2", np.exp2), unary("floor", np.floor),
    unary("identity", lambda x: x), unary("sign", np.sign), unary("sin", np.sin), unary("sinh", np.sinh),
    unary("sqrt", np.sqrt, P), unary("square", np.square), unary("tan", np.tan, U), unary("tanh", np.tanh),
    unary("round", lambda x: np.array([0, 2, 2, -0.0, -2]), np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)),
    unary("inverse", lambda x: 1 / (x + 1e-4), P), unary("inverse", lambda x: 1 / (x + 0.5), P, epsilon=0.5),
    unary("log", np.log, P), unary("log", lambda x: np.log(x + 1), P, epsilon=1.0),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), P), unary("rsqrt", lambda x: 1 / np.sqrt(x + 2), P, epsilon=2.0),
    unary("clip", lambda x: np.clip(x, -1, 0.5), alpha=-1.0, beta=0.5),
    unary("threshold", lambda x: np.maximum(x, 0.3), alpha=0.3),
    Case("logical_not", lambda mb, x: mb.logical_not(x=x), (B,), np.logical_not),
    unary("cast", lambda x: np.trunc(x).astype(np.int32), dtype="int32"),
    unary("cast", lambda x: x.astype(np.float32), I, dtype="fp32"),
    unary("cast", lambda x: x != 0, np.array([0, 2, -1], np.int32), dtype="bool"),
    unary("cast", lambda x: x.astype(np.float16), dtype="fp16"),
    binary("add", np.add), binary("sub", np.subtract), binary("mul", np.multiply), binary("maximum", np.maximum),
    binary("minimum", np.minimum), binary("real_div", np.divide), binary("mod", np.mod), binary("mod", np.mod, I, J),
    binary("floor_div", np.floor_divide), binary("floor_div", np.floor_divide, I, J), binary("add", np.add, I, J),
    binary("pow", lambda x, y: x**y, P, np.array([2.0], np.float32)),
    binary("equal", np.equal, I, np.array([7, 7, 9], np.int32)),
    binary("not_equal", np.not_equal, I, np.array([7, 7, 9], np.int32)), binary("less", np.less),
    binary("less_equal", np.less_equal, I, np.array([7, 7, 3], np.int32)), binary("greater", np.greater),
    binary("greater_equal", np.greater_equal, I, np.array([7, 7, 3], np.int32)),
    binary("logical_and", np.logical_and, B, C), binary("logical_or", np.logical_or, B, C),
    binary("logical_xor", np.logical_xor, B, C),
    unary("relu", lambda x: np.maximum(x, 0)), unary("relu6", lambda x: np.clip(x, 0, 6), X * 5),
    unary("sigmoid", sigmoid), unary("silu", lambda x: x * sigmoid(x)),
    unary("softsign", lambda x: x / (1 + np.abs(x))),
    unary("clamped_relu", lambda x: np.minimum(np.where(x >= 0, x, 0.2 * x), 1), alpha=0.2, beta=1.0),
    unary("elu", lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1)), alpha=0.7),
    unary("gelu", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    unary("gelu", lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
          mode="TANH_APPROXIMATION"),
    unary("gelu", lambda x: x * sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    unary("leaky_relu", lambda x: np.where(x >= 0, x, 0.3 * x), alpha=0.3),
    unary("linear_activation", lambda x: 2 * x - 1, alpha=2.0, beta=-1.0),
    unary("prelu", lambda x: np.where(x > 0, x, channels(ALPHA) * x), IMAGE, alpha=ALPHA),
    unary("scaled_tanh", lambda x: 1.5 * np.tanh(0.5 * x), alpha=1.5, beta=0.5),
    unary("sigmoid_hard", lambda x: np.clip(0.2 * x + 0.4, 0, 1), alpha=0.2, beta=0.4),
    unary("softplus", lambda x: np.log1p(np.exp(x.astype(np.float64))), X * 12),
    unary("softplus_parametric", lambda x: channels(ALPHA) * np.log1p(np.exp(channels(BETA) * x)), IMAGE,
          alpha=ALPHA, beta=BETA),
    unary("softmax", lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), axis=1),
    unary("thresholded_relu", lambda x: np.where(x >= 0.4, x, 0), alpha=0.4),
]  # fmt: skip

"""Convolution, pooling, normalisation, products, attention, reductions, recurrence; results by plain loops or torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch.nn import functional as F

from tests.runtimes.mil.builder import Case

R = np.random.default_rng(1)


def rand(*shape, scale=1.0):
    return (R.standard_normal(shape) * scale).astype(np.float32)


def window_values(x, kernel, strides, pads, dilations, fill, out):
    """Yield (position, values under the window): (n, C, *K) per position, `fill` beyond the tensor."""
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    for at in itertools.product(*map(range, out)):
        index = tuple(
            slice(p * s, p * s + (k - 1) * d + 1, d) for p, s, k, d in zip(at, strides, kernel, dilations, strict=True)
        )
        yield at, padded[(slice(None), slice(None), *index)]


def naive_conv(x, w, b, strides, pads, dilations, groups):
    kernel = w.shape[2:]
    out = [
        (size + sum(pad) - (k - 1) * d - 1) // s + 1
        for size, pad, k, d, s in zip(x.shape[2:], pads, kernel, dilations, strides, strict=True)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    per, made = x.shape[1] // groups, w.shape[0] // groups
    for at, values in window_values(x, kernel, strides, pads, dilations, 0, out):
        for channel in range(w.shape[0]):
            group = channel // made
            part = values[:, group * per : (group + 1) * per]
            y[(slice(None), channel, *at)] = (part * w[channel]).reshape(len(x), -1).sum(1) + b[channel]
    return y


def pooled(x, kernel, strides, pads, out, fill, function):
    y = np.zeros((*x.shape[:2], *out))
    extra = [
        (before, max(after, (o - 1) * s + k - size - before))
        for (before, after), o, s, k, size in zip(pads, out, strides, kernel, x.shape[2:], strict=True)
    ]
    for at, values in window_values(x, kernel, strides, extra, (1,) * len(kernel), fill, out):
        y[(..., *at)] = function(values.reshape(*x.shape[:2], -1))
    return y


IMAGE, LINE, CUBE = rand(2, 4, 7, 6), rand(2, 4, 9), rand(1, 2, 4, 5, 6)
W2, W1, W3, DEPTH = rand(6, 4, 3, 2), rand(3, 4, 3), rand(2, 2, 2, 3, 2), rand(4, 1, 3, 3)
B6, B3, B2, B4 = rand(6), rand(3), rand(2), rand(4)
T2 = rand(4, 3, 3, 2)
GAMMA, BETA = rand(4), rand(4)
MEAN, VARIANCE = rand(4), np.abs(rand(4)) + 0.1
SEQUENCE, HIDDEN, CELL = rand(5, 2, 3), rand(2, 4), rand(2, 4)
IH, HH, BIAS = rand(16, 3, scale=0.5), rand(16, 4, scale=0.5), rand(16)
PEEP = rand(12, scale=0.3)
COLUMN = GAMMA.reshape(1, 4, 1, 1), BETA.reshape(1, 4, 1, 1)


def conv(x, w, b, pads, strides, dilations=None, groups=1, **own):
    dilations = dilations or (1,) * len(strides)
    return Case(
        "conv",
        lambda mb, v: mb.conv(x=v, weight=w, bias=b, strides=strides, dilations=dilations, groups=groups, **own),
        (x,), lambda v: naive_conv(v, w, b, strides, pads, dilations, groups), 1e-4,
    )  # fmt: skip


def transposed(x, full, **own):
    return Case(
        "conv_transpose", lambda mb, v: mb.conv_transpose(x=v, weight=T2, bias=B3, strides=(2, 2), **own), (x,),
        lambda v: full(F.conv_transpose2d(torch.tensor(v), torch.tensor(T2), None, 2)).numpy() + B3.reshape(1, 3, 1, 1),
        1e-4,
    )  # fmt: skip


def pool(name, kernel, strides, pads, out, function, fill=0.0, **own):
    return Case(
        name, lambda mb, v: getattr(mb, name)(x=v, kernel_sizes=kernel, strides=strides, **own), (IMAGE,),
        lambda v: pooled(v, kernel, strides, pads, out, fill, function),
    )  # fmt: skip


def reduced(name, function, x=IMAGE, **own):
    return Case(name, lambda mb, v: getattr(mb, name)(x=v, **own), (x,), function)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, ih, hh, b, peep=None, clip=None):
    states = []
    peep = np.zeros(12, np.float32) if peep is None else peep
    for step in x:
        i, f, o, z = np.split(step @ ih.T + h @ hh.T + b, 4, axis=-1)
        c = sigmoid(f + peep[4:8] * c) * c + sigmoid(i + peep[:4] * c) * np.tanh(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        h = sigmoid(o + peep[8:] * c) * np.tanh(c)
        states.append(h)
    return np.stack(states), h, c


def gru(x, h, after=False):
    states = []
    w, u, b = IH[:12], HH[:12], BIAS[:12]
    extra = BIAS[4:16] if after else np.zeros(12, np.float32)
    for step in x:
        reset, fresh, update = np.split(step @ w.T + extra, 3, axis=-1)
        reset = sigmoid(reset + h @ u[:4].T + b[:4])
        update = sigmoid(update + h @ u[8:].T + b[8:])
        inner = reset * (h @ u[4:8].T + b[4:8]) if after else (reset * h) @ u[4:8].T + b[4:8]
        h = (1 - update) * np.tanh(fresh + inner) + update * h
        states.append(h)
    return np.stack(states), h


def rnn(x, h):
    states = []
    for step in x[::-1]:
        h = np.maximum(step @ IH[:4].T + h @ HH[:4].T + BIAS[:4], 0)
        states.append(h)
    return states[-1][None], h


def attention(q, k, v, mask):
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


ALL = tuple(range(4))
CASES = [
    conv(IMAGE, W2, B6, [(0, 0), (0, 0)], (1, 1), pad_type="valid"),
    conv(IMAGE, W2, B6, [(1, 2), (0, 3)], (2, 1), (1, 2), pad_type="custom", pad=[1, 2, 0, 3]),
    conv(IMAGE, W2, B6, [(1, 1), (0, 0)], (2, 2), pad_type="same"),
    conv(IMAGE, W2, B6, [(1, 1), (1, 0)], (1, 1), pad_type="same_lower"),
    conv(IMAGE, DEPTH, B4, [(1, 1), (1, 1)], (1, 1), groups=4, pad_type="custom", pad=[1, 1, 1, 1]),
    conv(LINE, W1, B3, [(0, 0)], (2,), pad_type="valid"),
    conv(CUBE, W3, B2, [(0, 0)] * 3, (1, 2, 1), pad_type="valid"),
    transposed(IMAGE, lambda y: y, pad_type="valid"),
    transposed(IMAGE, lambda y: y[:, :, 1:-1, 0:-1], pad_type="custom", pad=[1, 1, 0, 1]),
    transposed(IMAGE, lambda y: y[:, :, :-1], pad_type="same"),
    transposed(IMAGE, lambda y: y[:, :, 1:15, 0:12], pad_type="custom", pad=[1, 1, 0, 1],
               output_shape=[2, 3, 14, 12]),
    pool("max_pool", (3, 2), (2, 2), [(1, 1), (0, 0)], (4, 3), lambda v: v.max(-1), -np.inf, pad_type="custom",
         pad=[1, 1, 0, 0]),
    pool("max_pool", (2, 2), (2, 2), [(0, 0), (0, 0)], (4, 3), lambda v: v.max(-1), -np.inf, pad_type="valid",
         ceil_mode=True),
    pool("avg_pool", (3, 3), (2, 1), [(1, 1), (1, 1)], (4, 6), lambda v: v.mean(-1), pad_type="same"),
    pool("avg_pool", (2, 2), (2, 2), [(0, 0), (0, 0)], (4, 3), lambda v: np.nanmean(v, -1), np.nan, pad_type="valid",
         ceil_mode=True),
    pool("avg_pool", (3, 3), (2, 2), [(1, 1), (1, 1)], (4, 3), lambda v: np.nanmean(v, -1), np.nan, pad_type="custom",
         pad=[1, 1, 1, 1], exclude_padding_from_average=True),
    pool("l2_pool", (2, 3), (1, 1), [(0, 0), (0, 0)], (6, 4), lambda v: np.sqrt((v * v).sum(-1)), pad_type="valid"),
    Case("batch_norm", lambda mb, x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA,
                                                   epsilon=1e-3), (IMAGE,),
         lambda x: COLUMN[0] * (x - MEAN.reshape(1, 4, 1, 1)) / np.sqrt(VARIANCE.reshape(1, 4, 1, 1) + 1e-3)
         + COLUMN[1]),
    Case("instance_norm", lambda mb, x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3), (IMAGE,),
         lambda x: COLUMN[0] * (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-3)
         + COLUMN[1]),
    Case("layer_norm", lambda mb, x: mb.layer_norm(x=x, axes=[-1], gamma=rand(6) * 0 + 2, epsilon=1e-3), (IMAGE,),
         lambda x: 2 * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)),
    Case("layer_norm", lambda mb, x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA), (IMAGE,),
         lambda x: COLUMN[0] * (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) + COLUMN[1]),
    Case("l2_norm", lambda mb, x: mb.l2_norm(x=x, epsilon=1e-3), (IMAGE,),
         lambda x: x / np.sqrt((x * x).sum((1, 2, 3), keepdims=True) + 1e-3)),
    Case("local_response_norm", lambda mb, x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=1.5), (IMAGE,),
         lambda x: x / (1.5 + 0.5 / 3 * sum(np.pad(x * x, [(0, 0), (1, 1), (0, 0), (0, 0)])[:, s : s + 4]
                                            for s in range(3))) ** 0.6),
    Case("linear", lambda mb, x: mb.linear(x=x, weight=IH[:, :3], bias=BIAS), (SEQUENCE,), lambda x: x @ IH.T + BIAS),
    Case("matmul", lambda mb, x, y: mb.matmul(x=x, y=y, transpose_y=True), (rand(2, 3, 4), rand(5, 4)),
         lambda x, y: x @ y.T),
    Case("matmul", lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=True), (rand(2, 3, 4), rand(1, 3, 5)),
         lambda x, y: np.swapaxes(x, -1, -2) @ y),
    Case("matmul", lambda mb, x, y: mb.matmul(x=x, y=y), (rand(4), rand(4, 2)), lambda x, y: x @ y),
    Case("einsum", lambda mb, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
         (rand(2, 3, 4, 5), rand(2, 5, 4, 6)), lambda x, y: np.einsum("nchw,nwhu->nchu", x, y)),
    Case("einsum", lambda mb, x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"),
         (rand(3, 4, 5), rand(5, 4, 2)), lambda x, y: np.einsum("chw,whr->chr", x, y)),
    reduced("reduce_sum", lambda x: x.sum((1, 3)), axes=[1, 3]),
    reduced("reduce_mean", lambda x: x.mean((2, 3), keepdims=True), axes=[2, 3], keep_dims=True),
    reduced("reduce_prod", lambda x: x.prod((0, 2)), axes=[0, 2]),
    reduced("reduce_max", lambda x: x.max(-1), axes=[-1]),
    reduced("reduce_min", lambda x: x.min()[()], axes=list(ALL)),
    reduced("reduce_sum_square", lambda x: (x * x).sum(1), axes=[1]),
    reduced("reduce_l1_norm", lambda x: np.abs(x).sum(1), axes=[1]),
    reduced("reduce_l2_norm", lambda x: np.sqrt((x * x).sum(1)), axes=[1]),
    reduced("reduce_log_sum", lambda x: np.log(x.sum(1)), np.abs(IMAGE), axes=[1]),
    reduced("reduce_log_sum_exp", lambda x: np.log(np.exp(x).sum((1, 2))), axes=[1, 2]),
    reduced("reduce_argmax", lambda x: x.argmax(1), axis=1),
    reduced("reduce_argmin", lambda x: x.argmin(-1)[..., None], axis=-1, keep_dims=True),
    Case("lstm", lambda mb, x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, weight_ih=IH, weight_hh=HH, bias=BIAS,
                                             peephole=PEEP, output_sequence=True, clip=np.float32(0.4)),
         (SEQUENCE, HIDDEN, CELL), lambda x, h, c: lstm(x, h, c, IH, HH, BIAS, PEEP, 0.4)),
    Case("lstm", lambda mb, x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, weight_ih=IH[:8], weight_hh=HH[:8, :2],
                                             bias=BIAS[:8], weight_ih_back=IH[8:], weight_hh_back=HH[8:, :2],
                                             bias_back=BIAS[8:], direction="bidirectional", output_sequence=True),
         (SEQUENCE, HIDDEN, CELL), lambda x, h, c: torch_lstm(x, h, c)),
    Case("gru", lambda mb, x, h: mb.gru(x=x, initial_h=h, weight_ih=IH[:12], weight_hh=HH[:12], bias=BIAS[:12],
                                        output_sequence=True), (SEQUENCE, HIDDEN), gru),
    Case("rnn", lambda mb, x, h: mb.rnn(x=x, initial_h=h, weight_ih=IH[:4], weight_hh=HH[:4], bias=BIAS[:4],
                                        direction="reverse", activation="relu"), (SEQUENCE, HIDDEN), rnn),
]  # fmt: skip
MASK = rand(1, 1, 5, 6)
IOS18_CASES = [
    Case("scaled_dot_product_attention",
         lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASK),
         (rand(2, 3, 5, 4), rand(2, 3, 6, 4), rand(2, 3, 6, 7)), lambda q, k, v: attention(q, k, v, MASK)),
    Case("scaled_dot_product_attention",
         lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=MASK[0, 0] > -1),
         (rand(2, 3, 5, 4), rand(2, 3, 6, 4), rand(2, 3, 6, 7)), lambda q, k, v: attention(q, k, v, MASK > -1)),
    Case("gru", lambda mb, x, h: mb.gru(x=x, initial_h=h, weight_ih=IH[:12], weight_hh=HH[:12], bias=BIAS[:12],
                                        input_bias=BIAS[4:16], reset_after=True, output_sequence=True),
         (SEQUENCE, HIDDEN), lambda x, h: gru(x, h, after=True)),
]  # fmt: skip


def torch_lstm(x, h, c):
    """Return what torch's bidirectional LSTM makes of the same weights, with its own order of gates."""
    layer = torch.nn.LSTM(3, 2, bidirectional=True)
    for suffix, part in (("", slice(0, 8)), ("_reverse", slice(8, 16))):
        order = [0, 1, 2, 3, 6, 7, 4, 5]  # input, forget, output, cell -> input, forget, cell, output
        layer.get_parameter(f"weight_ih_l0{suffix}").data = torch.tensor(IH[part][order])
        layer.get_parameter(f"weight_hh_l0{suffix}").data = torch.tensor(HH[part, :2][order])
        layer.get_parameter(f"bias_ih_l0{suffix}").data = torch.tensor(BIAS[part][order])
        layer.get_parameter(f"bias_hh_l0{suffix}").data.zero_()
    split = [torch.tensor(np.stack([v[:, :2], v[:, 2:]])) for v in (h, c)]
    with torch.no_grad():
        sequence, (hidden, cell) = layer(torch.tensor(x), tuple(split))
    return sequence.numpy(), np.concatenate(list(hidden.numpy()), -1), np.concatenate(list(cell.numpy()), -1)

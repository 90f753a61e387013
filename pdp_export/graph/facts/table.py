"""Operator -> transfer rule; an operator that is not here knows no constants and needs all of its inputs."""

from __future__ import annotations

from pdp_export.graph import operators as families
from pdp_export.graph.facts import elementwise, layers, mixing, shapes
from pdp_export.graph.facts.facts import Transfer
from pdp_export.graph.nodes import BATCH_NORM, CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS, aten

RULES: dict[object, Transfer] = {
    **dict.fromkeys(CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {aten.linear}, layers.LAYER),
    aten.embedding: layers.EMBEDDING,
    BATCH_NORM: layers.BATCH_NORM,
    **dict.fromkeys(families.UNARY | families.BINARY, elementwise.ELEMENTWISE),
    **dict.fromkeys(families.CHOICES, elementwise.OPAQUE),
    **dict.fromkeys(families.IDENTITY, shapes.IDENTITY),
    **dict.fromkeys(families.MOVEMENT | families.PADDING | families.PIXELS, shapes.MOVEMENT),
    **dict.fromkeys(families.SPATIAL, shapes.POOLING),
    **dict.fromkeys(families.REDUCTIONS, shapes.REDUCTION),
    **dict.fromkeys(families.SIZES | families.CREATION, shapes.SHAPE_ONLY),
    aten.cat: shapes.CONCATENATION,
    **dict.fromkeys(families.SOFTMAXES | {aten.log_softmax, aten._log_softmax}, mixing.SOFTMAX),
    aten.layer_norm: mixing.LAYER_NORM,
    aten.group_norm: mixing.GROUP_NORM,
    **dict.fromkeys(families.PRODUCTS, mixing.MATMUL),
    aten.scaled_dot_product_attention: mixing.ATTENTION,
}

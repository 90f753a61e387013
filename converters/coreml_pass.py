"""Our passes over a MIL program: pixels are scaled at its start, weights take the forms of `coreml_forms` at its end.

Importing this module imports coremltools. Zeros stay zeros; "int8" and "palette" follow `encoding.integer8` and
`encoding.palette`, so that the stored bits can be compared with what those make of the PyTorch weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813  the name that all MIL code uses
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from pdp_export.converters.coreml_forms import SPARSE, chosen_form, lossy_part
from pdp_export.encoding import integer8, palette
from pdp_export.encoding.zeros import positive_zeros

NAME = "pdp_export::choose_weight_forms"
SCALING = "pdp_export::scale_pixels"
_MATRIX = 2
_IOS18 = 18
_INDEX_TYPES = {4: types.np_uint4_dtype, 6: types.np_uint6_dtype, 8: np.uint8}

Array = np.ndarray[Any, Any]


@register_pass(namespace="pdp_export")
class choose_weight_forms(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  registered under its own name
    """Replaces float constants of rank >= 2; options: `encoding` (see `coreml_forms`) and `min_ios`."""

    encoding: str = "auto"
    min_ios: int = 16

    def apply(self, prog: Any) -> None:
        """Replace the constants of all functions of a MIL program."""
        for function in prog.functions.values():
            self._apply_block(function)

    @block_context_manager  # type: ignore[untyped-decorator]
    def _apply_block(self, block: Any) -> None:
        for operation in list(block.operations):
            for inner in operation.blocks:
                self._apply_block(inner)
            if operation.op_type == "const" and _is_weight(operation):
                self._replace(operation)

    def _replace(self, operation: Any) -> None:
        values = operation.outputs[0].val
        form = chosen_form(values, self.encoding)
        if form == "dense":
            return
        build = _sparse if form.startswith(SPARSE) else _whole
        new = build(operation, positive_zeros(values), lossy_part(form), self.min_ios)
        operation.enclosing_block.replace_uses_of_var_after_op(
            anchor_op=operation, old_var=operation.outputs[0], new_var=new, no_check_var_types=True
        )
        operation.enclosing_block.remove_ops([operation])


@register_pass(namespace="pdp_export")
class scale_pixels(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  registered under its own name
    """Turns pixels into what the network takes: ``scale * pixel + bias`` per channel, behind the input `image`."""

    image: str = ""
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()

    def apply(self, prog: Any) -> None:
        """Insert a product and a sum in front of everything that reads the image."""
        function = prog.functions["main"]
        pixels = function.inputs[self.image]
        first = function.operations[0]
        with function:
            product = mb.mul(x=pixels, y=_channels(self.scale), before_op=first, name=f"{self.image}_scaled")
            result = mb.add(x=product, y=_channels(self.bias), before_op=first, name=f"{self.image}_normalized")
            function.replace_uses_of_var_after_op(
                anchor_op=result.op, old_var=pixels, new_var=result, no_check_var_types=True
            )


def _channels(values: tuple[float, ...]) -> Array:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def _is_weight(operation: Any) -> bool:
    values = operation.outputs[0].val
    if not isinstance(values, np.ndarray) or values.ndim < _MATRIX or values.dtype not in (np.float16, np.float32):
        return False
    return bool(operation.outputs[0].child_ops) and not any(
        output in operation.enclosing_block.outputs for output in operation.outputs
    )


def _sparse(operation: Any, values: Array, lossy: str, min_ios: int) -> Any:
    """Return the result of the operators that stand for a mask and the non-zero numbers."""
    name = f"{operation.name}_sparsified"
    if not lossy:
        mask = _kept(values)
        if min_ios < _IOS18:
            packed = np.packbits(mask.ravel(), bitorder="little")
            return mb.constexpr_sparse_to_dense(
                nonzero_data=values[mask], mask=packed, shape=np.uint32(values.shape), before_op=operation, name=name
            )
        return mb.constexpr_sparse_to_dense(nonzero_data=values[mask], mask=_bits(mask), before_op=operation, name=name)
    if lossy == "int8":
        codes = integer8.encode(values)
        mask = _kept(codes.values)
        kept, numbers = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=_bits(mask), nonzero_data=codes.values[mask], scale=codes.scale,
            before_op=operation, name=f"{operation.name}_quantized",
        )  # fmt: skip
    else:
        bits = _bits_of(lossy)
        mask = _kept(values)
        found = palette.encode_nonzero(values, bits)
        kept, numbers = mb.constexpr_lut_to_sparse(
            indices_mask=_bits(mask), indices_nonzero_data=found.indices[mask].astype(_INDEX_TYPES[bits]),
            lut=_table(found.entries, values.ndim), before_op=operation, name=f"{operation.name}_palettized",
        )  # fmt: skip
    return mb.constexpr_sparse_to_dense(nonzero_data=numbers, mask=kept, before_op=operation, name=name)


def _whole(operation: Any, values: Array, lossy: str, min_ios: int) -> Any:
    """Return the result of the operator that stands for all numbers of a weight."""
    del min_ios  # lossy forms need iOS 18, which was checked
    if lossy == "int8":
        codes = integer8.encode(values)
        return mb.constexpr_blockwise_shift_scale(
            data=codes.values, scale=codes.scale, before_op=operation, name=f"{operation.name}_quantized"
        )
    bits = _bits_of(lossy)
    found = palette.encode(values, bits)
    return mb.constexpr_lut_to_dense(
        indices=found.indices.astype(_INDEX_TYPES[bits]), lut=_table(found.entries, values.ndim),
        before_op=operation, name=f"{operation.name}_palettized",
    )  # fmt: skip


def _kept(values: Array) -> Array:
    """Return where values are stored: the non-zero ones, or one zero where there are no others."""
    mask: Array = values != 0
    if not mask.any():
        mask.flat[0] = True
    return mask


def _bits(mask: Array) -> Array:
    return mask.astype(types.np_uint1_dtype)


def _bits_of(lossy: str) -> int:
    return int(lossy.removeprefix("palette"))


def _table(entries: Array, rank: int) -> Array:
    return entries.reshape(*[1] * rank, -1, 1)

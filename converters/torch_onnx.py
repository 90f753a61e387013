"""A torch program as a plain ONNX model in memory: the way into converters that read ONNX, not a target of its own."""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING

from pdp_export.encoding.zeros import positive_zeros
from pdp_export.errors import ConversionError, UsageError
from pdp_export.targets import ConvertRequest

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

PROTOBUF_LIMIT = (1 << 31) - 1


def export_plain_onnx(
    program: ExportedProgram, request: ConvertRequest, opset: int, limit: int = PROTOBUF_LIMIT
) -> ModelProto:
    """Return `program` as ONNX with every weight inside, inputs and outputs named as `request` names them.

    Each layer's output keeps the name of its node in the program; -0.0 becomes +0.0.

    Raises:
        UsageError: `request` names another number of inputs or outputs than the program has.
        ConversionError: an operator that ONNX lacks, a dynamic axis that the program fixes, more than `limit` bytes of
            weights.
    """
    check(program, request, limit)
    model = _export(program, request, opset)
    _canonicalize(model)
    return model


def check(program: ExportedProgram, request: ConvertRequest, limit: int = PROTOBUF_LIMIT) -> None:
    """Raise what `export_plain_onnx` would raise for the names, axes and bytes of the program."""
    signature = program.graph_signature
    for kind, has, asked in (
        ("inputs", len(signature.user_inputs), len(request.inputs)),
        ("outputs", len(signature.user_outputs), len(request.outputs)),
    ):
        if has != asked:
            raise UsageError(f"the program has {has} {kind}, but {asked} are named", where=kind, hint="name each")
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size > limit:
        raise too_large(size)
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec, name in zip(request.inputs, signature.user_inputs, strict=True):
        shape = nodes[str(name)].meta["val"].shape
        fixed = [axis for axis in spec.dynamic if axis < len(shape) and isinstance(shape[axis], int)]
        if fixed:
            raise ConversionError(
                f"axis {fixed[0]} of input {spec.name!r} shall be dynamic; the program fixes it at {shape[fixed[0]]}",
                where=spec.name,
                hint="capture with dynamic_shapes for that axis and an example size of at least 2",
            )


def _export(program: ExportedProgram, request: ConvertRequest, opset: int) -> ModelProto:
    import torch
    from torch.onnx import OnnxExporterError

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it mentions that torchvision is absent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns about its own treespec
            warnings.simplefilter("ignore", DeprecationWarning)  # copying an exported program does too
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in request.inputs],
                output_names=list(request.outputs),
                external_data=False,
                verbose=False,
            )
    except OnnxExporterError as error:
        raise _unsupported(error) from error
    finally:
        logger.setLevel(level)
    if exported is None:
        raise ConversionError("torch.onnx.export returned nothing", hint="please report this model")
    return exported.model_proto


def too_large(size: int) -> ConversionError:
    """Return the error for a model that one ONNX file cannot hold."""
    return ConversionError(
        f"the model has {size / 2**30:.2f} GiB of weights; one ONNX file holds less than 2 GiB",
        hint="target onnx writes a second file in fp32 and fp16; for others, shrink the model",
    )


def _unsupported(error: BaseException) -> ConversionError:
    """Name the node and the operator; the exporter's own text is a page long, innermost cause last."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    texts = [str(item).splitlines()[0] for item in chain if str(item)]
    node = next((match for text in texts if (match := re.search(r"node %(\w+)", text))), None)
    return ConversionError(
        f"ONNX cannot express the model: {texts[-1] if texts else type(error).__name__}",
        where=node.group(1) if node else None,
        hint="replace the operator in the model, or choose another target",
    )


def _canonicalize(model: ModelProto) -> None:
    from onnx import numpy_helper

    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.dtype.kind == "f":
            item.CopyFrom(numpy_helper.from_array(positive_zeros(values), item.name))

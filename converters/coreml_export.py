"""Target "coreml": an .mlpackage (ML Program) whose pruned weights are a bit mask and their non-zeros.

The order of the steps is the design: faults that coremltools would commit silently are refused first,
the weights are made sparse last, and the result is counted before it is written. Core ML itself runs
on Apple's systems only, so nothing here speaks of speed.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.converters import coreml_forms, coreml_guards, coreml_image, coreml_interface, coreml_save
from pdp_export.converters.coreml_quiet import quiet
from pdp_export.errors import ConversionError, PdpExportError, UsageError
from pdp_export.targets import ConvertRequest, Effect, Effects, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MIN_IOS = (16, 17, 18)
_FLAGS = ("fixed_shapes", "image_input", "classifier")
SPARSE_OPERATOR = "constexpr_sparse_to_dense"
LOSSY_FROM_IOS = 18
"""Older systems know int8 and palettes in other operators, but none of them beside a mask."""

# These multiply scales into weights; the file must hold the weights of the program, bit by bit.
_WEIGHT_CHANGING_PASSES = {"common::fuse_conv_scale", "common::fuse_conv_batchnorm"}

TARGET = Target(
    name="coreml",
    title="Core ML (.mlpackage): iPhone, iPad, Mac",
    suffix=".mlpackage",
    extra="coreml",
    modules=("coremltools",),
    precisions=("fp16", "fp32"),
    encodings=coreml_forms.ENCODINGS,
    effects={
        "unstructured": Effects(
            size=Effect(
                expected=True, why="bit mask and non-zeros: 1/16 + the share of non-zeros of a dense fp16 file"
            ),
            ram=Effect(
                expected=None, why="iOS 16 unpacks the weights when it loads them, iOS 17 in some cases on the fly"
            ),
            speed=Effect(
                expected=None,
                why="Neural Engine and CPU on iOS 17 or later; Apple reports 4 % on MobileNetV2 and 16 % on ResNet50 "
                "at 75 % zeros (iPhone 14 Pro)",
            ),
        ),
        "channel": Effects(
            size=Effect(expected=True, why="removed channels are not stored"),
            ram=Effect(expected=True, why="weights and activations are smaller"),
            speed=Effect(expected=True, why="fewer multiplications on every compute unit"),
        ),
    },
    atol={"fp16": 1e-2, "fp32": 1e-4, **coreml_forms.TOLERANCES},
    channel_alignment=8,
    storage=coreml_forms.STORED_BITS,
    options={
        "min_ios": "oldest iOS that opens the package: 16 (default, macOS 13), 17 or 18",
        "fixed_shapes": "true writes the example shapes instead of ranges; the Neural Engine prefers fixed shapes",
        "image_input": "true makes the image input take pixels, scaled in the package by the recipe's preprocessing; "
        "one image at a time",
        "classifier": "true returns the label (classLabel) and the score of every label of the recipe "
        "(classLabel_probs); one sample at a time",
    },
)


def check(program: ExportedProgram, request: ConvertRequest, pattern: str) -> None:
    """Raise what `convert` would raise for options, operators and names (see `registry.Converter.check`)."""
    _, fixed = _options(request)
    request = _one_at_a_time(request)
    if coreml_forms.demands_sparse(request.encoding):
        request.check_pattern(TARGET, pattern)
    coreml_guards.refuse_silent_faults(program)
    coreml_guards.refuse_non_finite(program, trained=False)
    coreml_interface.check(program, request.inputs, request.outputs, fixed=fixed)


def convert(program: ExportedProgram, path: Path, request: ConvertRequest) -> None:
    """Write `program` to the package (a directory) `path`.

    With encoding "auto" every weight takes the smaller of its dense and its sparse form, by the bytes predicted for
    it: a mask costs 1/16 of the elements in fp16, 1/32 in fp32, so it pays from that share of zeros. "int8" and
    "palette4", "palette6", "palette8" (iOS 18) choose among those numbers and the sparse forms of them as well. The
    encodings with "sparse" refuse a package without any mask where some weight would get smaller by one. Zeros stay
    zeros bit by bit; without int8 or palette all other values are rounded to `request.precision` once. The same
    program and request give the same bytes.

    Raises:
        ConversionError: naming the operator, layer or weight that this target cannot express.
        UsageError: for a precision, encoding or option that this target does not have.
    """
    min_ios, fixed = _options(request)
    request = _one_at_a_time(request)
    image, labels = coreml_image.image_of(request), coreml_image.labels_of(request)
    TARGET.require()
    coreml_guards.refuse_silent_faults(program)
    coreml_guards.refuse_non_finite(program)
    with quiet():
        program = coreml_guards.worked_around(program)
    sparse = _gaining(program, request) if coreml_forms.demands_sparse(request.encoding) else []
    metadata = {**request.metadata, **(image.metadata() if image else {})}
    with quiet(), coreml_save.written_package(path, metadata) as folder:
        model = _to_ml_program(program, request, folder, min_ios, fixed=fixed)
        if sparse:
            _check_sparse(model, sparse)
        outputs = (coreml_image.LABEL_OUTPUT, coreml_image.PROBABILITIES_OUTPUT) if labels else request.outputs
        coreml_interface.check_written(model.get_spec(), request.inputs, outputs)


def _options(request: ConvertRequest) -> tuple[int, bool]:
    request.check(TARGET)
    min_ios = request.options.get("min_ios", MIN_IOS[0])
    fixed = request.options.get("fixed_shapes", False)
    flags = [(name, request.options.get(name, False), (True, False)) for name in _FLAGS]
    for name, value, allowed in (("min_ios", min_ios, MIN_IOS), *flags):
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise UsageError(
                f"option {name} is {value!r}",
                where=f"targets: coreml: options: {name}",
                hint=f"use one of: {', '.join(str(item).lower() for item in allowed)}",
            )
    lossy = coreml_forms.lossy_part(request.encoding)
    if lossy and min_ios < LOSSY_FROM_IOS:
        raise UsageError(
            f"encoding {request.encoding!r} needs iOS {LOSSY_FROM_IOS}; the package is to open on iOS {min_ios}",
            where="targets: coreml: encoding",
            hint=f"set options: {{min_ios: {LOSSY_FROM_IOS}}}, or use encoding: auto",
        )
    return min_ios, fixed


def _one_at_a_time(request: ConvertRequest) -> ConvertRequest:
    """Return the request with a batch of one where Core ML takes single images, or gives a single label."""
    if coreml_image.image_of(request) is None and not coreml_image.labels_of(request):
        return request
    return request.model_copy(update={"inputs": tuple(coreml_image.one_sample(spec) for spec in request.inputs)})


def _to_ml_program(
    program: ExportedProgram, request: ConvertRequest, folder: Path, min_ios: int, *, fixed: bool
) -> Any:
    import coremltools as ct

    image, labels = coreml_image.image_of(request), coreml_image.labels_of(request)
    inputs = coreml_interface.input_types(program, request.inputs, fixed=fixed, image=image)
    outputs = coreml_interface.output_types(program, request.outputs)
    classifier = ct.ClassifierConfig(list(labels), predicted_feature_name=coreml_image.LABEL_OUTPUT) if labels else None
    precision = ct.precision.FLOAT16 if request.precision == "fp16" else ct.precision.FLOAT32
    try:
        return ct.convert(
            program,
            convert_to="mlprogram",
            inputs=inputs,
            outputs=outputs,
            compute_precision=precision,
            minimum_deployment_target=getattr(ct.target, f"iOS{min_ios}"),
            classifier_config=classifier,
            pass_pipeline=_passes(request.encoding, min_ios, image),
            package_dir=str(folder),
            skip_model_load=True,
        )
    except PdpExportError:
        raise
    except Exception as error:
        raise _refusal(program, error) from error


def _refusal(program: ExportedProgram, error: Exception) -> ConversionError:
    """Say which operator and layer coremltools stopped at, in place of its own pages."""
    name = _failing_node(error)
    traceback.clear_frames(error.__traceback__)  # they hold a temporary folder of coremltools
    node = next((node for node in program.graph.nodes if node.name == name), None)
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return ConversionError(
        f"coremltools cannot convert {coreml_guards.operator_name(node) if node else 'this program'} ({reason})",
        where=coreml_guards.layer_of(node) if node else name,
        hint="replace this operator by ones Core ML has, or leave the coreml target out",
    )


def _failing_node(error: Exception) -> str | None:
    """Return the name of the graph node whose translation raised: the innermost frame that holds one."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if "node" in frame.f_code.co_varnames:  # asking a frame for its locals keeps all of them alive
            found = getattr(frame.f_locals.get("node"), "name", None) or found
        trace = trace.tb_next
    return found


def _gaining(program: ExportedProgram, request: ConvertRequest) -> list[str]:
    """Return the names of the weights that get smaller by a mask."""
    dtype = np.float16 if request.precision == "fp16" else np.float32
    found = []
    for name, tensor in coreml_guards.read_tensors(program):
        if tensor.is_floating_point() and tensor.dim() > 1:
            with np.errstate(over="ignore"):
                values = tensor.detach().numpy().astype(dtype)
            if coreml_forms.chosen_form(values, request.encoding).startswith(coreml_forms.SPARSE):
                found.append(name)
    return found


def _passes(encoding: str, min_ios: int, image: coreml_image.Image | None) -> Any:
    """Return the passes of coremltools without those that change weights, our scaling first and our forms last."""
    import coremltools as ct

    from pdp_export.converters import coreml_pass

    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes(_WEIGHT_CHANGING_PASSES)
    if image is not None:
        passes.insert_pass(0, coreml_pass.SCALING)
        passes.set_options(coreml_pass.SCALING, {"image": image.name, "scale": image.scale, "bias": image.bias})
    if encoding != "dense":
        passes.append_pass(coreml_pass.NAME)
        passes.set_options(coreml_pass.NAME, {"encoding": encoding, "min_ios": min_ios})
    return passes


def _check_sparse(model: Any, gaining: list[str]) -> None:
    """Raise ConversionError when everything was stored densely without a word."""
    program = model.get_spec().mlProgram
    operators = [
        operation.type
        for function in program.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
    ]
    if SPARSE_OPERATOR not in operators:
        raise ConversionError(
            f"coremltools stored all weights dense; the zeros of {len(gaining)} would pay for a mask",
            where=gaining[0],
            hint="use encoding: dense, or report this model",
        )

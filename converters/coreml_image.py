"""The options `image_input` and `classifier`: what they need from the recipe, and what the package then says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdp_export.errors import UsageError
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest

LABEL_OUTPUT = "classLabel"
PROBABILITIES_OUTPUT = "classLabel_probs"
SCALE_KEY, BIAS_KEY = "pdp_export.image.scale", "pdp_export.image.bias"
_IMAGE_RANK = 4
_CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1}


@dataclass(frozen=True)
class Image:
    """An input that takes pixels from 0 to 255: the network sees ``scale * pixel + bias``, per channel."""

    name: str
    colour: str
    scale: tuple[float, ...]
    bias: tuple[float, ...]

    def metadata(self) -> dict[str, str]:
        """Return what the package says about its own preprocessing, so that its twin can undo it."""
        return {SCALE_KEY: json.dumps(self.scale), BIAS_KEY: json.dumps(self.bias)}


def image_of(request: ConvertRequest) -> Image | None:
    """Return the image input that was asked for, from the recipe's preprocessing.

    Raises:
        UsageError: when the option is set and no input, or no colour order, fits it.
    """
    if not request.options.get("image_input", False):
        return None
    inputs = [spec for spec in request.inputs if len(spec.shape) == _IMAGE_RANK]
    if len(inputs) != 1:
        raise _refusal(f"{len(inputs)} inputs have four axes; one image is expected", "name one image input")
    (spec,) = inputs
    colour, channels = _value(request.metadata, "colour", None), spec.shape[1]
    if _CHANNELS.get(str(colour)) != channels:
        raise _refusal(
            f"preprocessing.colour is {colour!r}, the input {spec.name!r} has {channels} channels",
            "set colour: RGB or BGR for three channels, GRAY for one",
        )
    mean, std = _per_channel(request, "mean", channels, 0.0), _per_channel(request, "std", channels, 1.0)
    divisor = float(_value(request.metadata, "scale", 255.0) or 255.0)
    return Image(
        spec.name,
        str(colour),
        tuple(1 / (divisor * one) for one in std),
        tuple(-m / s for m, s in zip(mean, std, strict=True)),
    )


def labels_of(request: ConvertRequest) -> tuple[str, ...]:
    """Return the labels of a classifier, or nothing when the option is not set.

    Raises:
        UsageError: when the option is set without labels, or for several outputs.
    """
    if not request.options.get("classifier", False):
        return ()
    labels = tuple(str(label) for label in _value(request.metadata, "labels", ()) or ())
    if not labels or len(set(labels)) != len(labels):
        raise _refusal(
            f"a classifier needs one different label per class; there are {len(labels)}", "set preprocessing.labels"
        )
    if len(request.outputs) != 1:
        raise _refusal(f"a classifier has one output, this model {len(request.outputs)}", "leave classifier out")
    return labels


def one_sample(spec: TensorSpec) -> TensorSpec:
    """Return the input with a batch of one: images and classifiers of Core ML take one sample at a time."""
    dynamic = {axis: name for axis, name in spec.dynamic.items() if axis}
    return spec.model_copy(update={"shape": (1, *spec.shape[1:]), "dynamic": dynamic})


def _value(metadata: Mapping[str, str], key: str, default: Any) -> Any:
    text = metadata.get(f"pdp_export.{key}")
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError as error:
        raise _refusal(f"metadata pdp_export.{key} is no JSON: {text[:40]!r}", "write it as JSON") from error


def _per_channel(request: ConvertRequest, key: str, channels: int, default: float) -> tuple[float, ...]:
    values = tuple(float(value) for value in _value(request.metadata, key, None) or (default,) * channels)
    if len(values) != channels:
        raise _refusal(f"preprocessing.{key} has {len(values)} entries for {channels} channels", "one per channel")
    return values


def _refusal(what: str, hint: str) -> UsageError:
    return UsageError(what, where="targets: coreml: options", hint=hint)

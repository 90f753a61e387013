"""Turns pydantic's validation errors into sentences for the person who wrote the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from pdp_export.errors import RecipeError, near_misses

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOWN = 8
_SHARES = ("sparsity", "max_layer_sparsity", "max_accuracy_drop")  # that people write in percent
_KEY = "[key]"  # how pydantic ends the place of a mapping's key


def explain(error: ValidationError, root: type[BaseModel], source: str, flags: Mapping[str, str]) -> RecipeError:
    """Return one RecipeError that quotes every wrong key, its value and what is allowed.

    `where` is `source`, or the flag by which a key was given (`flags`: dotted key to flag), or both.
    """
    details = _innermost(error.errors(include_url=False))
    sentences = [_sentence(item, root) for item in details[:_SHOWN]]
    if len(details) > _SHOWN:
        sentences.append(f"... and {len(details) - _SHOWN} more")
    return RecipeError(
        "; ".join(sentences),
        **_place(details[:_SHOWN], source, flags),
    )


def _place(details: list[ErrorDetails], source: str, flags: Mapping[str, str]) -> dict[str, str]:
    """Return `where` and `hint`: what the person typed wrongly, in the file or beside it."""
    own = [_dotted(item) for item in details if not any(_within(_dotted(item), key) for key in flags)]
    typed = list(dict.fromkeys(flag for key, flag in flags.items() if any(_concerns(item, key) for item in details)))
    where = [f"{source}: {', '.join(own)}"] * bool(own) + [", ".join(typed)] * bool(typed)
    if own:
        beside = f" or {', '.join(typed)}" if typed else ""
        hint = f"correct the recipe{beside}; `pdp-export init` writes a commented one with every key"
    else:
        hint = f"correct {', '.join(typed)}; --help says what it takes"
    return {"where": "; ".join(where), "hint": hint}


def _concerns(item: ErrorDetails, key: str) -> bool:
    """Whether an error is one of this key, or of its section with the key in the reason."""
    place = _dotted(item)
    return _within(place, key) or (_within(key, place) and key.rpartition(".")[2] in item["msg"])


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _innermost(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop an error of a section when one of its own keys is already at fault."""
    places = [item["loc"] for item in details]
    return [
        item
        for item in details
        if not any(len(p) > len(item["loc"]) > 0 and p[: len(item["loc"])] == item["loc"] for p in places)
    ]


def _dotted(item: ErrorDetails) -> str:
    return ".".join(str(part) for part in item["loc"] if part != _KEY) or "(whole recipe)"


def _sentence(item: ErrorDetails, root: type[BaseModel]) -> str:
    key, value, kind = _dotted(item), item["input"], item["type"]
    context = item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys_beside(item, root)
        name = str(item["loc"][-1])
        return f"unknown key {key!r}{near_misses(name, known)}; allowed: {', '.join(known)}"
    if kind == "missing":
        return f"key {key!r} is missing"
    if kind == "literal_error":
        allowed = str(context.get("expected", ""))
        words = [word.strip(" '") for word in allowed.replace(" or ", ", ").split(",")]
        told = f"{key.removesuffix(f'.{value}')} has a key" if item["loc"][-1] == _KEY else f"{key} is"
        return f"{told} {value!r}{near_misses(str(value), words)}; allowed: {allowed}"
    reason = item["msg"].removeprefix("Value error, ")
    if kind in ("less_than", "less_than_equal") and item["loc"][-1] in _SHARES:
        reason += " (a share: 0.5 is half)"
    if kind == "value_error" and isinstance(value, dict):  # the keys of a section contradict each other
        return f"{key}: {reason}"
    return f"{key} is {_short(value)}: {reason}"


def _short(value: Any) -> str:
    text = repr(value)
    limit = 80
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _keys_beside(item: ErrorDetails, root: type[BaseModel]) -> list[str]:
    model: Any = root
    for part in item["loc"][:-1]:
        if isinstance(part, int):
            continue
        model = _section_of(model.model_fields[part].annotation)
    return [name for name, field in model.model_fields.items() if not field.exclude]


def _section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None

"""The section of the recipe that says what is pruned, how far, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pdp_export.recipe_section import Fraction, Positive, Section

_ONLY_WITH: Mapping[str, tuple[str, str]] = {
    "n": ("pattern", "nm"),
    "m": ("pattern", "nm"),
    "block": ("pattern", "block"),
    "ties": ("pattern", "channel"),
    "align": ("pattern", "channel"),
    "temperature": ("preset", "paper"),
}
"""Keys that mean something for one value of another key."""

_ROUNDING = 1e-6  # of a sparsity written next to n and m
Count = Annotated[int, Field(gt=0)]


class WarmupRule(Section):
    """Warm-up ends when the validation metric was at least `level` for `epochs` epochs in a row."""

    level: float = 0.5
    epochs: Count = 5


class PruningSection(Section):
    """What is pruned, how far, and along which schedule.

    With 0 `epochs` the weights alone decide (one-shot). `warmup` (or where its rule is met) and
    `ramp_end` are shares of the pruning epochs; the ratio rises along `ramp` between them. `ignore`
    are regular expressions on layer names; `prune_depthwise`, `prune_first` and `prune_last` are off
    by default because those layers hold few weights and much accuracy.
    """

    pattern: Literal["unstructured", "nm", "block", "channel"] = "unstructured"
    sparsity: Fraction = Field(default=0.9, description="pattern nm: follows from n and m")
    n: Count = 2
    m: Annotated[int, Field(gt=1)] = 4
    block: tuple[Count, Count] = (1, 4)
    epochs: Annotated[int, Field(ge=0)] = 10
    lr: Annotated[float, Field(gt=0, le=1e6)] | None = Field(default=None, description="defaults to training.lr")
    recalibrate_batchnorm: bool | None = Field(default=None, description="after hardening; null = only where one-shot")
    preset: Literal["default", "paper", "rectified", "gradual", "straight_through", "st3", "feather"] = "default"
    temperature: Positive = Field(default=1e-4, description="preset paper only: the constant tau")
    warmup: Annotated[float, Field(ge=0, lt=1)] | WarmupRule = 0.1
    ramp: Literal["cubic", "linear"] | None = Field(
        default=None, description="the preset's own: cubic, or linear (paper)"
    )
    ramp_end: Annotated[float, Field(gt=0, le=1)] = 0.75
    allocation: Literal["global", "uniform", "erk"] = "global"
    budget: Mapping[Literal["macs", "parameters", "cost"], Positive] | None = Field(
        default=None, description="kept share of the model's work, in place of sparsity: {macs: 0.3}"
    )
    costs: Mapping[str, Positive] | None = Field(
        default=None, description="cost of one weight by layer, for budget cost"
    )
    max_layer_sparsity: Annotated[float, Field(gt=0, le=1)] = 0.98
    refresh_every: Count | None = Field(
        default=None, description="steps between selections of the threshold; by default 0.2 % of the run, at most 16"
    )
    reallocate: bool = False
    ties: Literal["stream", "free"] = "stream"
    align: Count = 8
    ignore: tuple[str, ...] = ()
    prune_depthwise: bool = False
    prune_first: bool = False
    prune_last: bool = False

    @field_validator("ignore")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @property
    def structure(self) -> Literal["unstructured", "channel"]:
        """What the zeros are to a converter: scattered weights, or whole channels."""
        return "channel" if self.pattern == "channel" else "unstructured"

    @property
    def goal(self) -> str:
        """What is asked for, in words: pattern and sparsity, or the budget that takes the sparsity's place."""
        if self.budget is None:
            return f"{self.pattern} {self.sparsity:g}"
        return ", ".join((self.pattern, *(f"{kind} {value:g}" for kind, value in self.budget.items())))

    @model_validator(mode="before")
    @classmethod
    def _sparsity_of_nm(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pattern") == "nm" and "sparsity" not in values:
            n, m = values.get("n", 2), values.get("m", 4)
            if isinstance(n, int) and isinstance(m, int) and 0 < n < m:
                return {**values, "sparsity": 1 - n / m}
        return values

    @model_validator(mode="after")
    def _n_below_m(self) -> Self:
        if self.pattern == "nm" and not self.n < self.m:
            raise ValueError(f"n {self.n} must be smaller than m {self.m}: n weights are kept of every m")
        if self.pattern == "nm" and abs(self.sparsity - (1 - self.n / self.m)) > _ROUNDING:
            raise ValueError(f"sparsity {self.sparsity} contradicts {self.n}:{self.m}; leave sparsity out")
        return self

    @model_validator(mode="after")
    def _ramp_after_warmup(self) -> Self:
        if isinstance(self.warmup, float) and self.ramp_end <= self.warmup:
            raise ValueError(f"ramp_end {self.ramp_end} must be greater than warmup {self.warmup}")
        return self

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Self:
        """Refuse what would be ignored; a key at its default is no wish."""
        for key, (other, value) in _ONLY_WITH.items():
            if self._is_set(key) and getattr(self, other) != value:
                raise ValueError(
                    f"{key} has no effect with {other} {getattr(self, other)}, only with {value}; leave it out"
                )
        if self.budget is not None and self.pattern != "nm" and self._is_set("sparsity"):
            raise ValueError("sparsity has no effect beside a budget; leave one of them out")
        if self.costs is not None and "cost" not in (self.budget or {}):
            raise ValueError("costs has no effect without a budget of cost; add budget: {cost: ...}, or leave it out")
        return self

    def _is_set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

"""Flags that several commands share; the same flag means the same everywhere. Recipe < flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from pdp_export.targets_names import TARGET_NAMES

Command = TypeVar("Command", bound=Callable[..., Any])

# Flag name (as click passes it) -> dotted key of the recipe.
_KEYS = {
    "model": "model.factory",
    "weights": "model.weights",
    "sparsity": "pruning.sparsity",
    "pattern": "pruning.pattern",
    "ties": "pruning.ties",
    "align": "pruning.align",
    "ignore": "pruning.ignore",
    "epochs": "pruning.epochs",
    "lr": "pruning.lr",
    "temperature": "pruning.temperature",
    "seed": "seed",
    "device": "training.device",
    "threads": "benchmark.threads",
    "warmup": "benchmark.warmup",
    "atol": "gates.atol",
    "max_accuracy_drop": "gates.max_accuracy_drop",
    "max_latency_ratio": "gates.max_latency_ratio",
    "min_size_ratio": "gates.min_size_ratio",
}


def _chain(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


output_options = _chain(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of a table."),
    click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but warnings and errors."),
    click.option("--no-progress", is_flag=True, help="No progress bars (also off when stderr is no terminal)."),
    click.option("--no-color", is_flag=True, help="No colours (NO_COLOR and TERM=dumb are honoured too)."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
)

recipe_options = _chain(
    click.option("--recipe", required=True, type=click.Path(), help="The YAML recipe; `pdp-export init` writes one."),
    click.option("-o", "--output", type=click.Path(), help="Run directory. [default: runs/<name>-<utc>]"),
    click.option("--model", metavar="REF", help="model.factory: module:function or file.py:function."),
    click.option("--weights", metavar="PATH", help="model.weights: .safetensors, or a state dict of tensors."),
    click.option("--pattern", metavar="NAME", help="pruning.pattern: unstructured, nm, block or channel."),
    click.option("--sparsity", type=float, help="pruning.sparsity: a share between 0 and 1."),
    click.option("--ties", metavar="NAME", help="pruning.ties: stream or free."),
    click.option("--align", type=int, help="pruning.align: channel widths are multiples of this."),
    click.option("--ignore", multiple=True, metavar="REGEX", help="pruning.ignore: layers left dense (repeatable)."),
    click.option("--epochs", type=int, help="pruning.epochs."),
    click.option("--lr", type=float, help="pruning.lr."),
    click.option("--temperature", type=float, help="pruning.temperature (preset paper)."),
    click.option("--seed", type=int, help="seed."),
    click.option("--device", help="training.device: auto, cpu, cuda, mps."),
)

run_options = _chain(
    click.option("--resume", is_flag=True, help="Go on in an existing run directory."),
    click.option("--force", is_flag=True, help="Start over in an existing run directory."),
    click.option("--only", metavar="STAGE", help="Run this stage alone, even if it is finished (implies --resume)."),
    click.option("--from-stage", metavar="STAGE", help="Run this stage and all later ones again (implies --resume)."),
    click.option("--dry-run", is_flag=True, help="Print the plan and predicted sizes; train and write nothing."),
    click.option("--require-all-checks", is_flag=True, help="Exit 10 when any check did not run."),
)

_format_options = _chain(
    click.option("--precision", help="Precision of the chosen targets, for example fp32 or fp16."),
    click.option("--encode", "encoding", help="Weight encoding: auto, dense, or one of the target's own."),
    click.option("--encode-for", metavar="GOAL", help="onnx: what --encode auto looks for: load (default) or size."),
    click.option("--opset", type=int, help="onnx: opset of the file."),
    click.option("--min-ios", type=int, help="coreml: oldest iOS that must open the file."),
)  # fmt: skip


def _with_targets(default: str) -> Callable[[Command], Command]:
    """Return the flags of the targets; `default` says which targets are taken where none is named."""
    told = f"Target, repeatable: {', '.join(TARGET_NAMES)}. [{default}]"
    return _chain(click.option("--target", "targets", multiple=True, metavar="NAME", help=told), _format_options)


target_options = _with_targets("default: the recipe's")
program_target_options = _with_targets("required with --model")

gate_options = _chain(
    click.option("--atol", type=float, help="gates.atol: largest error, relative to max|y|."),
    click.option("--max-accuracy-drop", type=float, help="gates.max_accuracy_drop: 0.01 is one point."),
    click.option("--max-latency-ratio", type=float, help="gates.max_latency_ratio: pruned / dense."),
    click.option("--min-size-ratio", type=float, help="gates.min_size_ratio: dense / pruned bytes."),
    click.option("--warmup", type=int, help="benchmark.warmup: inferences before measuring."),
    click.option("--runs", type=int, help="benchmark: timed inferences per file (blocks x runs_per_block)."),
    click.option("--threads", type=int, help="benchmark.threads."),
)


def flag_of(name: str) -> str:
    """Return a flag as it is typed, by the name click passes it with."""
    return f"--{name.replace('_', '-')}"


def given(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return the flags behind the overrides, by the recipe's key."""
    found = {key: flag_of(name) for name, key in _KEYS.items() if flags.get(name) not in (None, ())}
    if flags.get("runs"):
        found |= {"benchmark.blocks": "--runs", "benchmark.runs_per_block": "--runs"}
    return found


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe overrides of the flags that were given; `targets` and friends are handled apart."""
    found = {_KEYS[name]: value for name, value in flags.items() if name in _KEYS and value not in (None, ())}
    if found.get("pruning.ignore"):
        found["pruning.ignore"] = list(found["pruning.ignore"])
    return found

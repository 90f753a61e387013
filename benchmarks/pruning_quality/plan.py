"""The plan: which runs there are, and what each waits for.

The stages, each planned from the rows of the one before:

``tune``
    Every method on its grid (learning rates times two values of its own) at 0.9, one seed that is used nowhere
    else, measured on the tuning part; the specialists of a pattern on that pattern. The best point is taken
    per task and method, and holds for all of the task's patterns and sparsities.
``screen``
    Three seeds on the test set: all methods at 0.9 and 0.95; then the best PDP preset, the two strongest
    rivals and the specialists of the pattern at 0.8, 1:4 and channel 0.5.
``final``
    Seven seeds more, ten in all, at 0.9 and 0.95: the best PDP preset and the two strongest rivals of the screening.
``ablate``
    Only when asked for by name: changes of one thing (`ablations`) on the tuning part, three seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.pruning_quality import ablations
from benchmarks.pruning_quality.choices import best_options, ranking
from benchmarks.pruning_quality.methods.registry import METHODS
from benchmarks.pruning_quality.rows import Row
from benchmarks.pruning_quality.tasks import TASKS

STAGES = ("tune", "screen", "final", "ablate")
TUNE_SEEDS = (100,)
SCREEN_SEEDS = (0, 1, 2)
FINAL_SEEDS = tuple(range(10))  # those of the screening count
MAIN = (("unstructured", 0.9), ("unstructured", 0.95))
MORE = (("unstructured", 0.8), ("1:4", 0.75), ("channel", 0.5))
DENSE = ("dense", 0.0)
TUNED_AT = ("unstructured", 0.9)
RIVALS = 2
USERS_DEFAULT = "pdp_default"  # what everybody gets who chooses nothing is measured everywhere


@dataclass(frozen=True)
class Cell:
    """One comparison: a task, a pattern and a sparsity."""

    task: str
    pattern: str
    sparsity: float


@dataclass(frozen=True)
class Run:
    """One training run; `split` is the part that it is measured on."""

    stage: str
    task: str
    pattern: str
    sparsity: float
    method: str
    seed: int
    split: str
    options: Mapping[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        """What makes two runs the same run; the stage does not."""
        options = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        revision = METHODS[self.method].revision
        cell = f"{self.task}/{self.pattern}/{self.sparsity:g}"
        return f"{cell}/{self.method}@{revision}/{options}/{self.split}/{self.seed}"

    @property
    def cell(self) -> Cell:
        """The comparison that this run belongs to."""
        return Cell(self.task, self.pattern, self.sparsity)

    def describe(self) -> dict[str, Any]:
        """Return the fields of the row that are known before the run."""
        return {
            "stage": self.stage,
            "task": self.task,
            "pattern": self.pattern,
            "asked": self.sparsity,
            "method": self.method,
            "family": METHODS[self.method].family,
            "revision": METHODS[self.method].revision,
            "options": dict(self.options),
            "seed": self.seed,
            "split": self.split,
        }


def plan(done: Mapping[str, Row]) -> tuple[list[Run], list[str]]:
    """Return all runs that can be named now, in order, and what must wait for others.

    Runs that are done already are part of the list.
    """
    runs: dict[str, Run] = {}
    waiting: list[str] = []
    for part in (_main, _more, _final, _ablate):
        for run in part(done, waiting):
            runs.setdefault(run.key, run)
    return list(runs.values()), waiting


def missing(done: Mapping[str, Row]) -> tuple[list[Run], list[str]]:
    """Return the runs of `plan` that have no row, and what waits."""
    runs, waiting = plan(done)
    return [run for run in runs if run.key not in done], waiting


def _main(done: Mapping[str, Row], waiting: list[str]) -> Iterator[Run]:
    cells = [Cell(task, *point) for task in TASKS for point in (DENSE, *MAIN)]
    for cell in cells:
        for method in methods_for(cell.pattern):
            yield from _tune(cell, method)
    for cell in cells:
        for method in methods_for(cell.pattern):
            yield from _test(cell, method, "screen", SCREEN_SEEDS, done, waiting)


def _more(done: Mapping[str, Row], waiting: list[str]) -> Iterator[Run]:
    for task in TASKS:
        strongest = _strongest(task, done)
        if strongest is None:
            waiting.append(f"{task}: 0.8, 1:4 and channel wait for the screening at 0.9 and 0.95")
            continue
        for cell in (Cell(task, *point) for point in MORE):
            for method in contenders(cell.pattern, strongest):
                yield from _tune(cell, method)
                yield from _test(cell, method, "screen", SCREEN_SEEDS, done, waiting)


def _final(done: Mapping[str, Row], waiting: list[str]) -> Iterator[Run]:
    for cell in (Cell(task, *point) for task in TASKS for point in MAIN):
        ranked = _screened(cell, done)
        if ranked is None:
            waiting.append(f"{cell.task} {cell.sparsity:g}: the final seeds wait for the screening")
            continue
        for method in (*_pdp(ranked)[:1], *_rivals(ranked)[:RIVALS]):
            yield from _test(cell, method, "final", FINAL_SEEDS, done, waiting)
    for task in TASKS:
        yield from _test(Cell(task, *DENSE), "dense", "final", FINAL_SEEDS, done, waiting)


def _ablate(done: Mapping[str, Row], waiting: list[str]) -> Iterator[Run]:
    for cell in (Cell(task, *point) for task in TASKS for point in MAIN):
        for method, changes in ablations.CHANGES.items():
            tuned = [done[run.key] for run in _tune(cell, method) if run.key in done]
            if len(tuned) < len(list(_tune(cell, method))):
                waiting.append(f"{cell.task} {cell.sparsity:g} {method}: ablations wait for its tuning")
                continue
            for change in changes:
                for seed in ablations.SEEDS:
                    yield _run(cell, method, "ablate", seed, "tuning", {**best_options(tuned), **change})


def _tune(cell: Cell, method: str) -> Iterator[Run]:
    if METHODS[method].prunes(TUNED_AT[0]):
        cell = Cell(cell.task, *TUNED_AT)
    for options in METHODS[method].grid():
        for seed in TUNE_SEEDS:
            yield _run(cell, method, "tune", seed, "tuning", options)


def _test(
    cell: Cell, method: str, stage: str, seeds: tuple[int, ...], done: Mapping[str, Row], waiting: list[str]
) -> Iterator[Run]:
    tuned = [done.get(run.key) for run in _tune(cell, method)]
    rows = [row for row in tuned if row is not None]
    if len(rows) < len(tuned):
        waiting.append(f"{cell.task} {cell.pattern} {cell.sparsity:g} {method}: {stage} waits for its tuning")
        return
    for seed in seeds:
        yield _run(cell, method, stage, seed, "test", best_options(rows))


def _run(cell: Cell, method: str, stage: str, seed: int, split: str, options: Mapping[str, Any]) -> Run:
    return Run(stage, cell.task, cell.pattern, cell.sparsity, method, seed, split, options)


def methods_for(pattern: str) -> list[str]:
    """Return the methods that know a pattern ("unstructured", "1:4", "channel", "dense")."""
    return [name for name, entry in METHODS.items() if entry.prunes(pattern)]


def contenders(pattern: str, strongest: list[str]) -> list[str]:
    """Return who is compared beyond the main cells: best and default PDP preset, strongest rivals, specialists.

    `strongest` are a task's methods from best to worst.
    """
    able = methods_for(pattern)
    general = [method for method in strongest if method in able]
    specialists = [method for method in able if not METHODS[method].prunes(TUNED_AT[0])]
    ours = dict.fromkeys([*_pdp(general)[:1], *(method for method in general if method == USERS_DEFAULT)])
    return [*ours, *_rivals(general)[:RIVALS], *specialists]


def _screened(cell: Cell, done: Mapping[str, Row]) -> list[str] | None:
    """Return the methods of a main cell from best to worst, or None while the screening is not complete."""
    rows: list[Row] = []
    for method in methods_for(cell.pattern):
        runs = list(_test(cell, method, "screen", SCREEN_SEEDS, done, []))
        found = [done[run.key] for run in runs if run.key in done]
        if not runs or len(found) < len(runs):
            return None
        rows += found
    return ranking(rows)


def _pdp(methods: list[str]) -> list[str]:
    return [method for method in methods if METHODS[method].family == "pdp"]


def _rivals(methods: list[str]) -> list[str]:
    return [method for method in methods if METHODS[method].family != "pdp"]


def _strongest(task: str, done: Mapping[str, Row]) -> list[str] | None:
    """Return a task's methods from best to worst, by their mean place in its main cells."""
    places: dict[str, int] = {}
    for cell in (Cell(task, *point) for point in MAIN):
        ranked = _screened(cell, done)
        if ranked is None:
            return None
        for place, method in enumerate(ranked):
            places[method] = places.get(method, 0) + place
    return sorted(places, key=places.__getitem__)

"""Everything that can go wrong, as one tree. The exit code of the command line lives on the class.

PdpExportError                 1   base: what, where, next step
├── UsageError                 2   a flag, a path or a combination that cannot work
│   ├── RecipeError            2   a key of the recipe, with its value and the allowed values
│   ├── RunDirectoryError      2   the output directory holds something else
│   └── DataError              2   a data factory that yields wrong shapes or types
├── MissingDependencyError     3   a package or tool that is not installed
├── ConversionError            4   a stage that cannot express this model
│   ├── CaptureError           4   torch.export cannot capture it
│   ├── RemovalError           4   channel removal refuses it
│   └── ChildCrashedError      4   a native converter or reader died, hung or ran out of memory
├── ParityGateError            5   outputs or weights differ from the PyTorch model
├── AccuracyGateError          6   more accuracy lost than the recipe allows
├── CostGateError              7   latency or size outside the recipe's limit
├── DeviceError                8   the place where a runtime should run
│   └── NotRunnableError       8   this file cannot be executed on this machine
├── InconclusiveError          9   a gate that is set could not be decided
├── CheckNotRunError          10   a required check did not run
├── TrainingStoppedError      11   NaN, or no budget left; the last good checkpoint is kept
├── ProofError                12   a stage changed the function it had to preserve
├── FileError                  1   a file that is missing, damaged, foreign or does not fit on the disk
│   └── UnsafeFileError        1   a file that would run code; refused, never executed
└── InterruptedRunError      130   Ctrl-C; the state is saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PdpExportError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: What went wrong, with the value and the limit, in one sentence.
        where: The layer, file, key or flag concerned.
        hint: The next step for the person who reads it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return "\n".join(lines)


class UsageError(PdpExportError):
    """A flag, a path or a combination of them that cannot work."""

    exit_code = 2


class RecipeError(UsageError):
    """A key of the recipe: quotes key, value, allowed values and near misses."""


class RunDirectoryError(UsageError):
    """The output directory holds another run, or something that is no run."""


class DataError(UsageError):
    """A data factory that yields something else than the recipe promises."""


class MissingDependencyError(PdpExportError):
    """A package or tool that is not installed; the hint names the pip extra."""

    exit_code = 3


class ConversionError(PdpExportError):
    """A stage that cannot express this model for this target."""

    exit_code = 4


class CaptureError(ConversionError):
    """torch.export cannot capture the model; `where` is the user's own line."""


class RemovalError(ConversionError):
    """Channel removal refuses the model; `where` is the layer."""


class ChildCrashedError(ConversionError):
    """A child process with a native converter or reader died, hung or used too much memory."""


class ParityGateError(PdpExportError):
    """Outputs or stored weights differ from the PyTorch model by more than the tolerance."""

    exit_code = 5


class AccuracyGateError(PdpExportError):
    """The pruned model lost more accuracy than `gates.max_accuracy_drop` allows."""

    exit_code = 6


class CostGateError(PdpExportError):
    """Latency or size is outside `gates.max_latency_ratio` or `gates.min_size_ratio`."""

    exit_code = 7


class DeviceError(PdpExportError):
    """The place where a runtime should run is not usable."""

    exit_code = 8


class NotRunnableError(DeviceError):
    """This file can be read but not executed here; the verdict is NOT_RUN with this reason."""


class InconclusiveError(PdpExportError):
    """A gate that is set could not be decided by this run's measurement."""

    exit_code = 9


class CheckNotRunError(PdpExportError):
    """A check that `--require-all-checks` demands did not run."""

    exit_code = 10


class TrainingStoppedError(PdpExportError):
    """Training cannot go on; the last good checkpoint is kept."""

    exit_code = 11


class ProofError(PdpExportError):
    """A stage changed the function it had to preserve."""

    exit_code = 12


class FileError(PdpExportError):
    """A file that is missing, damaged, foreign, or does not fit on the disk."""


class UnsafeFileError(FileError):
    """A file that would run code when opened; it was refused, not executed."""


class InterruptedRunError(PdpExportError):
    """Ctrl-C; everything finished so far is saved."""

    exit_code = 130


def near_misses(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known words, upper or lower case, or an empty string."""
    folded = {name.casefold(): name for name in known}
    close = [folded[name] for name in difflib.get_close_matches(word.casefold(), folded, n=2, cutoff=0.6)]
    return f" (did you mean {' or '.join(repr(name) for name in close)}?)" if close else ""


def first_line(error: BaseException) -> str:
    """Return ``ValueError: the first line of its text``, for quoting an error that somebody else raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

"""Measured times, remembered between runs: one JSON file for each runtime version, processor and number of threads."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pdp_export.files import write_text
from pdp_export.removal.costs import LayerWork

_FORMAT = 1


class TimeCache:
    """Microseconds by layer or whole network, in a file that is read once and written when asked to.

    A file that is missing, damaged or of another format counts as empty: its times can be measured again.
    """

    def __init__(self, folder: Path, setting: dict[str, str]) -> None:
        """Open the file for a `setting`: everything that decides times beside the layer itself."""
        self.setting = {"format": str(_FORMAT), **setting}
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(self.setting.values())).strip("-").lower()
        self.path = folder / f"{name}.json"
        self._times = self._read()
        self._changed = False

    def get(self, work: LayerWork | str) -> float | None:
        """Return the time of a layer, or of a network by its own key; None where it is unknown."""
        return self._times.get(_key(work))

    def put(self, work: LayerWork | str, microseconds: float) -> None:
        """Note a time."""
        self._times[_key(work)] = microseconds
        self._changed = True

    def save(self) -> None:
        """Write the file where anything is new; times that another process noted meanwhile stay."""
        if self._changed:
            self._times = self._read() | self._times
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps({"setting": self.setting, "us": self._times}, indent=0, sort_keys=True))
            self._changed = False

    def _read(self) -> dict[str, float]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["setting"] != self.setting:
                return {}
            return {str(key): float(value) for key, value in content["us"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _key(work: LayerWork | str) -> str:
    if isinstance(work, str):
        return work
    return json.dumps(list(vars(work).values()), separators=(",", ":"))

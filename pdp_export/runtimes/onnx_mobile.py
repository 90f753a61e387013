"""What ONNX Runtime's own checker says of a file on phones: NNAPI and Core ML, by operators and shapes."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pdp_export.errors import first_line

_VERDICT = re.compile(r"Model should perform well with (.+?) (as is|if modified to have fixed input shapes): (\w+)")
_WORDS = {"YES": "suits", "MAYBE": "may suit", "NO": "does not suit"}


def remarks(path: Path) -> tuple[str, ...]:
    """Return one sentence per accelerator. The checker folds decoders first, as ONNX Runtime does when it loads."""
    from onnxruntime.tools.mobile_helpers import usability_checker

    lines = _Lines()
    logger = logging.Logger("pdp_export.mobile", logging.INFO)
    logger.addHandler(lines)
    try:
        usability_checker.analyze_model(path, logger=logger)
    except Exception as error:  # it stumbles over graphs without shapes; a remark is no reason to fail
        return (f"mobile: not checked, ONNX Runtime's usability checker stopped: {first_line(error)}",)
    verdicts: dict[str, dict[str, str]] = {}
    for line in lines.texts:
        match = _VERDICT.search(line)
        if match:
            verdicts.setdefault(match[1], {})[match[2]] = match[3]
    return tuple(_sentence(accelerator, found) for accelerator, found in verdicts.items())


def _sentence(accelerator: str, found: dict[str, str]) -> str:
    as_is, fixed = found.get("as is", "NO"), found.get("if modified to have fixed input shapes")
    text = f"mobile: {accelerator} {_WORDS.get(as_is, as_is)} the model"
    if fixed and fixed != as_is:
        text += f"; with fixed input shapes it {_WORDS.get(fixed, fixed)}"
    return f"{text} (ONNX Runtime's usability checker; operators only, not measured)"


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self.texts.append(record.getMessage())

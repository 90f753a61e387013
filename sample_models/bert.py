"""BERT for sentence pairs, from a local folder in the format of Hugging Face, and MultiNLI as it is distributed.

Needs ``pip install 'pdp-export[nlp]'``. Nothing is downloaded: `folder` holds config.json, the tokenizer and
model.safetensors of, for example, bert-base-uncased; `data` holds multinli_1.0_train.jsonl and
multinli_1.0_dev_matched.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

LABELS = ("entailment", "neutral", "contradiction")
_FILES = ("multinli_1.0_train.jsonl", "multinli_1.0_dev_matched.jsonl")
Pair = tuple[str, str, int]


class Classifier(nn.Module):
    """A sequence classifier that takes plain tensors and returns logits."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Map three (N, tokens) int64 tensors to (N, labels) logits."""
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.logits  # type: ignore[no-any-return]


def classifier(folder: str | None = None, labels: int = len(LABELS)) -> nn.Module:
    """Build BERT with the weights in `folder` and a new classifier on top.

    Raises:
        ValueError: without a folder.
        FileNotFoundError: when it holds no model.
    """
    from transformers import AutoModelForSequenceClassification

    found = _existing(folder, "model.arguments.folder", "config.json")
    model = AutoModelForSequenceClassification.from_pretrained(found, num_labels=labels, local_files_only=True)
    return Classifier(model)


class Pairs(Dataset[Pair]):
    """Premise, hypothesis and label; pairs without a gold label ("-") are left out, as is usual."""

    def __init__(self, file: Path) -> None:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        self.pairs = [
            (row["sentence1"], row["sentence2"], LABELS.index(row["gold_label"]))
            for row in rows
            if row["gold_label"] in LABELS
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]


class Tokenised:
    """Turns pairs into a batch ``((input_ids, attention_mask, token_type_ids), label)``, each (N, tokens)."""

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        self.tokenizer, self.tokens = tokenizer, tokens

    def __call__(self, pairs: Sequence[Pair]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Pad or cut each pair to `tokens`."""
        first, second, labels = zip(*pairs, strict=True)
        batch = self.tokenizer(
            list(first), list(second), padding="max_length", truncation=True, max_length=self.tokens,
            return_tensors="pt", return_token_type_ids=True,
        )  # fmt: skip
        return (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]), torch.tensor(labels)


def loaders(
    folder: str | None = None, data: str | None = None, batch_size: int = 32, tokens: int = 128, calibration: int = 1024
) -> dict[str, Any]:
    """Return train, validation (matched) and calibration loaders of MultiNLI.

    Raises:
        ValueError: without the folder of the tokenizer or of the data.
        FileNotFoundError: when one of them does not hold what it should.
    """
    from transformers import AutoTokenizer

    found = _existing(folder, "data.arguments.folder", "config.json")
    train, validation = (Pairs(_existing(data, "data.arguments.data", name) / name) for name in _FILES)
    collate = Tokenised(AutoTokenizer.from_pretrained(found, local_files_only=True), tokens)
    spaced = Subset(train, range(0, len(train), max(1, len(train) // calibration)))
    return {
        "train": DataLoader(train, batch_size, shuffle=True, drop_last=True, collate_fn=collate),
        "validation": DataLoader(validation, batch_size, collate_fn=collate),
        "calibration": DataLoader(spaced, batch_size, collate_fn=collate),
    }


def _existing(folder: str | None, key: str, name: str) -> Path:
    if not folder:
        raise ValueError(f"name the folder in the recipe: {key}, which holds {name}")
    found = Path(folder)
    if not (found / name).is_file():
        raise FileNotFoundError(f"{key}: {found} holds no {name}")
    return found

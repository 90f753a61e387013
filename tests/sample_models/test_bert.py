"""BERT from a local folder: a tiny one goes through the real library, the real format and the Pruner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from pdp_export.pruning import Pruner
from pdp_export.recipe import Recipe
from sample_models.bert import classifier, loaders

RECIPE = Path(__file__).parents[2] / "sample_models" / "recipes" / "paper" / "bert_mnli.yaml"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sleeps", "runs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with its tokenizer, and ten pairs of MultiNLI's format."""
    root = tmp_path_factory.mktemp("bert")
    (root / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(root)
    transformers.BertTokenizerFast(vocab_file=str(root / "vocab.txt")).save_pretrained(root)
    for name in ("multinli_1.0_train.jsonl", "multinli_1.0_dev_matched.jsonl"):
        rows = [
            {"sentence1": "a cat sleeps", "sentence2": "a dog\u2028runs", "gold_label": label}
            for label in ("neutral", "-", "contradiction", "entailment", "entailment")
        ]
        (root / name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return root


def test_pairs_become_batches(folder: Path):
    """Labels in another order than the classifier's, or pairs nobody agreed on, would be trained on."""
    found = loaders(str(folder), str(folder), batch_size=2, tokens=16)
    (ids, mask, types), labels = next(iter(found["validation"]))
    assert ids.shape == mask.shape == types.shape == (2, 16)
    assert ids.dtype == mask.dtype == types.dtype == torch.int64
    assert labels.tolist() == [1, 2]
    assert len(found["validation"].dataset) == 4
    assert ids[0, 0] == WORDS.index("[CLS]")
    assert types[0, 6] == 1


def test_the_recipe_prunes_the_matrices_of_the_encoder_only(folder: Path):
    """Embeddings or the classifier inside the 90 % would make the figure another one than the paper's."""
    pruning = Recipe.load(RECIPE).pruning
    model = classifier(str(folder))
    inputs = tuple(torch.ones(2, 16, dtype=torch.int64) for _ in range(3))
    assert model.eval()(*inputs).shape == (2, 3)
    pruner = Pruner.from_section(model, pruning, inputs, {index: {0: "batch"} for index in range(3)})
    names = {name for mask in pruner.masks for name in mask.parameter_names}
    assert len(names) == 2 * 6
    assert all(".encoder.layer." in name for name in names)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path):
    """The library's own message for a missing folder tells of a hub that nobody asked for."""
    with pytest.raises(ValueError, match=r"model\.arguments\.folder"):
        classifier()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        classifier(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"holds no multinli_1\.0_train\.jsonl"):
        loaders(str(folder), str(tmp_path))

"""The Hugging Face callback inside the real Trainer, on a tiny BERT made from its configuration."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, Trainer, TrainerCallback
from transformers import TrainingArguments as Arguments

from pdp_export.errors import FileError, UsageError
from pdp_export.integrations import HuggingFacePruning
from pdp_export.pruning import Pruner, Schedule, Unstructured

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    num_labels=3,
)
PRUNABLE = 2 * (4 * 16 * 16 + 2 * 16 * 32) + 16 * 16  # two layers and the pooler


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


class Sentences(Dataset):
    """36 sentences of 8 tokens, always the same ones; `words` makes the labels those of a masked language model."""

    def __init__(self, words: bool = False):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 50, (36, 8), generator=generator)
        self.labels = self.tokens if words else self.tokens[:, 0] % 3

    def __len__(self):
        return 36

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG)


def pruning(**options) -> HuggingFacePruning:
    return HuggingFacePruning(lambda model: Pruner(model, Unstructured(0.8)), **options)


def arguments(folder, **options) -> Arguments:
    switches = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    length = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no"}
    return Arguments(output_dir=str(folder), logging_strategy="no", **{**length, **switches, **options})


def trainer(folder, *callbacks, model=None, **options) -> Trainer:
    return Trainer(
        model or bert(),
        arguments(folder, **options),
        train_dataset=Sentences(),
        eval_dataset=Sentences(),
        callbacks=list(callbacks),
    )


def zeros(model: nn.Module) -> int:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(int((layer.weight == 0).sum()) for layer in layers)


def test_zeros_are_exact_and_the_saved_model_is_an_ordinary_one(tmp_path):
    """A model that only loads with masks attached is no model for its users."""
    callback = pruning()
    run = trainer(tmp_path, callback)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert zeros(model) == zeros(run.model) == callback.report.zeros == round(0.8 * PRUNABLE)
    assert callback.report.warnings == ()
    assert set(model.state_dict()) == set(bert().state_dict())


class Recorder(TrainerCallback):
    """Remembers the pruner's progress after each optimizer step."""

    def __init__(self, watched):
        self.watched, self.progress = watched, []

    def on_step_end(self, *_, **__):
        self.progress.append(self.watched.pruner.progress)


def test_progress_counts_optimizer_steps_not_batches(tmp_path):
    """9 batches are 3 updates of 4, 4 and 1; counted in batches the ramp would end early."""
    callback = pruning()
    recorder = Recorder(callback)
    trainer(tmp_path, callback, recorder, gradient_accumulation_steps=4).train()
    assert recorder.progress == pytest.approx([step / 6 for step in range(1, 7)])
    assert callback.pruner.state_dict()["meta"]["clock"]["steps"] == 6


@pytest.mark.parametrize("at", [pytest.param(9, marks=pytest.mark.slow), 13])
def test_resumed_run_gives_the_weights_of_the_uninterrupted_one(tmp_path, at):
    """A mask state lost at an epoch's end (9) or within the second epoch (13) gives other zeros in the end."""
    straight, callback = trainer(tmp_path / "straight", pruning()), pruning()
    straight.train()
    trainer(tmp_path / "kept", pruning(), save_strategy="steps", save_steps=at).train()
    folder = tmp_path / "kept" / f"checkpoint-{at}"
    assert (folder / "pruner.safetensors").exists()
    torch.manual_seed(7)
    resumed = trainer(tmp_path / "kept", callback)
    resumed.train(resume_from_checkpoint=str(folder))
    for (name, one), other in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert callback.report.warnings == ()


@pytest.mark.slow
def test_checkpoint_of_another_folder_is_found_or_named(tmp_path):
    """The state of an equally numbered checkpoint in the output directory must not be taken for it."""
    trainer(tmp_path / "first", pruning(), save_strategy="steps", save_steps=9, learning_rate=2e-3).train()
    trainer(tmp_path / "second", pruning(), save_strategy="steps", save_steps=9).train()
    source = tmp_path / "first" / "checkpoint-9"
    with pytest.raises(FileError, match="other weights"):
        trainer(tmp_path / "second", pruning()).train(resume_from_checkpoint=str(source))
    with pytest.raises(FileError, match="cannot be read"):
        trainer(tmp_path / "third", pruning()).train(resume_from_checkpoint=str(source))
    callback = pruning(checkpoint=source)
    trainer(tmp_path / "third", callback).train(resume_from_checkpoint=str(source))
    assert callback.report.zeros == round(0.8 * PRUNABLE)


def test_best_checkpoint_is_hardened_with_its_own_state(tmp_path):
    """The masks of the last step over the weights of an early one: then an unfinished ramp would go unnoticed."""
    callback = HuggingFacePruning(lambda model: Pruner(model, Unstructured(0.8), Schedule(0.1, 0.9)))
    options = {"eval_strategy": "steps", "eval_steps": 9, "save_strategy": "steps", "save_steps": 9}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "progress", "greater_is_better": False}
    run = trainer(tmp_path, callback, **options, **best)
    evaluate = run.evaluate
    run.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_progress": callback.pruner.progress}
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-9")
    assert zeros(run.model) == round(0.8 * PRUNABLE)
    assert "of the ramp" in callback.report.warnings[0]


def test_model_init_is_followed(tmp_path):
    """The Trainer makes a second model when training starts: masks on the first one would prune nothing."""
    callback = pruning()
    options = {"model_init": bert, "args": arguments(tmp_path), "train_dataset": Sentences()}
    run = Trainer(callbacks=[callback], **options)
    run.train()
    assert zeros(run.model) == round(0.8 * PRUNABLE)
    ready = HuggingFacePruning(Pruner(bert(), Unstructured(0.8)))
    with pytest.raises(UsageError, match="another model"):
        Trainer(callbacks=[ready], **options)


@pytest.mark.slow
def test_callback_added_too_late_to_resume_says_so(tmp_path):
    """The Trainer loads soft weights into a model without masks by dropping them: training would start from noise."""
    trainer(tmp_path, pruning(), save_strategy="steps", save_steps=9).train()
    late = trainer(tmp_path)
    late.add_callback(pruning())
    with pytest.raises(FileError, match="attached before"):
        late.train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))


def test_tied_decoder_of_a_language_model_is_pruned_once_and_stays_tied(tmp_path):
    """Embedding and decoder are one matrix; a checkpoint must neither fail on it nor tear it apart."""

    def run(**resume):
        torch.manual_seed(0)
        ends = {"prune_first": True, "prune_last": True}
        callback = HuggingFacePruning(lambda model: Pruner(model, Unstructured(0.8), **ends))
        options = {"args": arguments(tmp_path, save_strategy="steps", save_steps=9), "callbacks": [callback]}
        trained = Trainer(BertForMaskedLM(CONFIG), train_dataset=Sentences(words=True), **options)
        trained.train(**resume)
        assert trained.model.cls.predictions.decoder.weight is trained.model.bert.embeddings.word_embeddings.weight
        return trained

    straight, resumed = run(), run(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    embedding = straight.model.bert.embeddings.word_embeddings.weight
    assert torch.equal(resumed.model.bert.embeddings.word_embeddings.weight, embedding)
    assert 0 < int((embedding == 0).sum()) < embedding.numel()
    straight.save_model(str(tmp_path / "saved"))
    assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path / "saved").cls.predictions.decoder.weight, embedding)


def test_only_one_process_writes_the_state():
    """Two ranks writing the same file would leave a mixture."""

    class Rank1(Arguments):
        should_save = False

    state = type("State", (), {"is_hyper_param_search": False, "global_step": 3})()
    callback = HuggingFacePruning(Pruner(bert(), Unstructured(0.8)))
    options = Rank1(output_dir="nowhere", use_cpu=True, report_to="none")
    callback.on_save(options, state, None)
    assert not Path("nowhere").exists()


def test_pruner_is_named_missing_before_the_trainer():
    """Reading the pruner too early must say when it exists."""
    with pytest.raises(UsageError, match="built with the Trainer"):
        _ = pruning().pruner

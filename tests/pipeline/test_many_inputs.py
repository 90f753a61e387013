"""A model with several inputs and outputs, its own loss and its own metric, from the recipe to the report."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pipeline.conftest import CommandLine, write_recipe

TASK = '''
class TwoHeads(nn.Module):
    """An image and two numbers in, a class and a distance out."""

    def __init__(self):
        super().__init__()
        self.body = build()[:8]
        self.mix = nn.Linear(128 + 2, 48)
        self.kind = nn.Linear(48, CLASSES)
        self.distance = nn.Linear(48, 1)

    def forward(self, image, numbers):
        mixed = torch.relu(self.mix(torch.cat([self.body(image), numbers], dim=1)))
        return {"kind": self.kind(mixed), "distance": self.distance(mixed)}


class Pairs(Dataset):
    def __init__(self, count, seed):
        self.images, self.labels = samples(count, seed)
        self.numbers = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        inputs = {"numbers": self.numbers[index], "image": self.images[index]}
        return inputs, {"kind": self.labels[index], "distance": self.numbers[index].sum()}


def collate(batch):
    inputs, targets = zip(*batch)
    stacked = {key: torch.stack([item[key] for item in inputs]) for key in inputs[0]}
    return stacked, Targets({key: torch.stack([item[key] for item in targets]) for key in targets[0]})


class Targets(dict):
    def __len__(self):
        return len(self["kind"])


def pairs():
    return {
        "train": DataLoader(Pairs(160, 0), 32, shuffle=True, collate_fn=collate),
        "validation": DataLoader(Pairs(64, 1), 32, collate_fn=collate),
    }


def loss(outputs, target):
    distance = (outputs["distance"][:, 0] - target["distance"]).square().mean()
    return nn.functional.cross_entropy(outputs["kind"], target["kind"]) + distance


def score(outputs, target):
    kind, distance = (outputs["kind"], outputs["distance"]) if isinstance(outputs, dict) else outputs
    return (kind.argmax(1) == target["kind"]).float() - 0.1 * (distance[:, 0] - target["distance"]).abs()
'''
CHANGES = {
    "model.factory": "tiny_task.py:TwoHeads",
    "data.factory": "tiny_task.py:pairs",
    "task": {"loss": "tiny_task.py:loss", "metric": "tiny_task.py:score"},
    "inputs": [
        {"name": "image", "shape": [1, 3, 16, 16], "dynamic": {0: "batch"}, "layout": "NCHW"},
        {"name": "numbers", "shape": [1, 2], "dynamic": {0: "batch"}},
    ],
    "outputs": ["kind", "distance"],
    "pruning": {"pattern": "channel", "sparsity": 0.4, "epochs": 2, "align": 4},
}


def test_two_inputs_two_outputs_own_loss_and_metric(tmp_path: Path, cli: CommandLine):
    """Pins inputs or outputs that are swapped or lost on the way, and a metric that sees only one of them."""
    write_recipe(tmp_path / "work", CHANGES, task=TASK)
    done = cli("prune-and-convert", "--recipe", "work/recipe.yaml", "-o", "run", "--json", "--max-accuracy-drop", "0.9")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    target = report["targets"][0]
    assert [(item["name"], item["verdict"]) for item in target["parity"]] == [("kind", "PASS"), ("distance", "PASS")]
    assert target["accuracy"]["metric"] == "tiny_task.py:score"
    assert report["counts_after"]["params"] < report["counts_before"]["params"]
    facts = json.loads(cli("inspect", "run/artifacts/model.onnx", "--json").out)
    assert [item["name"] for item in facts["inputs"]] == ["image", "numbers"]
    assert [item["name"] for item in facts["outputs"]] == ["kind", "distance"]

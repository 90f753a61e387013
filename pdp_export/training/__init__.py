"""The training loop on Lightning Fabric: checkpoints and exact resume.

Start reading at `loop.py`.
"""

from pdp_export.training.evaluation import evaluate
from pdp_export.training.loop import train
from pdp_export.training.records import EpochRecord, Progress, TrainingResult

__all__ = ["EpochRecord", "Progress", "TrainingResult", "evaluate", "train"]

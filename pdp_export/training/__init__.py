"""The training loop on Lightning Fabric: checkpoints, exact resume, distillation, several processes.

Start reading at `loop.py`.
"""

from pdp_export.training.distillation import Distiller
from pdp_export.training.evaluation import evaluate
from pdp_export.training.loop import train
from pdp_export.training.recalibration import RecalibrationReport, recalibrate
from pdp_export.training.records import EpochRecord, Progress, TrainingResult

__all__ = [
    "Distiller",
    "EpochRecord",
    "Progress",
    "RecalibrationReport",
    "TrainingResult",
    "evaluate",
    "recalibrate",
    "train",
]

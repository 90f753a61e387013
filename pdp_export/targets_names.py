"""The names of the targets, alone in a file so that ``--help`` imports nothing else."""

TARGET_NAMES = ("onnx", "coreml", "litert", "mnn")

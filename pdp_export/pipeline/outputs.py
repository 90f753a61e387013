"""Names of the files that stages leave for each other."""

WEIGHTS = "model.safetensors"  # train-dense, harden
DENSE_PROGRAM = "dense.pt2"  # remove-channels
PRUNED_PROGRAM = "model.pt2"  # remove-channels

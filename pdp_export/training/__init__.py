"""The training loop on Lightning Fabric: checkpoints and exact resume."""

"""What pruning costs per training step, in time and memory, against dense training and the rivals.

Run ``python -m benchmarks.pruning_overhead --help`` from the repository's root.
"""

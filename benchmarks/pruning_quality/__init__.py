"""PDP against its rivals, on the same loop, batches, epochs and tuning effort.

Run ``python -m benchmarks.pruning_quality --help`` from the repository's root.
"""

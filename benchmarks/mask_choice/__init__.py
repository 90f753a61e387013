"""Which channel masks to train: accuracy at equal measured latency for free, stream-tied and aligned masks.

Run ``python -m benchmarks.mask_choice --help`` from the repository's root.
"""

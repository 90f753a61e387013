"""Channel removal against its rivals: the same masked network, made smaller by each, measured side by side.

Run ``python -m benchmarks.channel_removal --help`` from the repository's root.
"""

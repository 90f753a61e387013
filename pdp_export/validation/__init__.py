"""Parity, weights, accuracy, size and latency statistics, and the gates."""

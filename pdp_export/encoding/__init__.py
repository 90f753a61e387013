"""Sparse codecs on numpy arrays; no framework imports."""

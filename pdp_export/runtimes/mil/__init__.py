"""Reads and runs ML Programs (MIL), the code inside a Core ML package, on any operating system."""

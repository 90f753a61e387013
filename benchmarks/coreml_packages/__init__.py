"""Core ML packages without a Mac: sizes of sparse forms, parity of the interpreter, its speed, and damaged files."""

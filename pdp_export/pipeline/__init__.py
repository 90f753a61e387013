"""The visible list of stages, the run directory, the manifest and resume."""

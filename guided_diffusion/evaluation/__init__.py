"""Measuring what generated images are worth. Needs requirements-eval.txt; the rest of the package does not."""

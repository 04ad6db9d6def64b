"""Starts, steps, robust kernels, and the unrolled registration."""

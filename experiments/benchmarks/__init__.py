"""Benchmarks: speed, other methods, and long or interrupted jobs."""

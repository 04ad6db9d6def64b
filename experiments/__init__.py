"""Experiments: the workflow here, with studies, benchmarks and measured results beside it."""

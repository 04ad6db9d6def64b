"""Registers many cases, measures the errors, and calibrates the confidence."""

"""Experiments: train, evaluate. Each opens with its command, its time and what to expect."""

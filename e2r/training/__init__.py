"""Training: examples, losses, the step, the loop, checkpoints and trained models."""

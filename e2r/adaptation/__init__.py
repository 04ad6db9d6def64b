"""Adaptation: a trained model goes on to learn on simulated frames of one patient's vertebrae."""

"""Rigid motions, clouds, surfaces, Procrustes."""

"""Geometry: rigid motions, clouds, surfaces, correspondences and Procrustes."""

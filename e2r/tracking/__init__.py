"""Poses at the camera's rate: a registration finds the levels, and the frames are followed."""

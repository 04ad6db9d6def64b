"""The simulator: anatomy, wound scene, depth camera."""

"""Registration: robust kernels, steps, their iteration, initial poses and the global search."""

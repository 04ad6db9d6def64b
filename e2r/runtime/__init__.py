"""Services around the computation: devices, caches, prefetching, files, signals, timing."""

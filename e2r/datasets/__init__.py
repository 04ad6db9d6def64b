"""Cases in memory and on disk, and the readers of data sets."""

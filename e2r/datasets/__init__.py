"""Cases: read, written, simulated."""

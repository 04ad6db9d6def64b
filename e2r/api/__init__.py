"""The front door: what ``import e2r`` offers, by the task. Paths may be strings.

Each module imports what its task needs. Compiled programs are kept between processes.
"""

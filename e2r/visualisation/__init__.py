"""Figures, snapshots of registered cases, the report, the viewer and the animation."""

"""Studies: what a part of the method is worth, and how far it can be trusted."""

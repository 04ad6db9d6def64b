"""The mask network and the mask estimators."""

"""Networks: the mask network, the coarse network, mask estimators and the region of interest."""

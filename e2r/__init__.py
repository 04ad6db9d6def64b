"""e2r: markerless registration of vertebrae, with a mask learnt from the registration error."""

__version__ = "0.1.0"

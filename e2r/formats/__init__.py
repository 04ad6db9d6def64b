"""Files of other programs: pictures, clouds, surfaces, cameras, label maps."""

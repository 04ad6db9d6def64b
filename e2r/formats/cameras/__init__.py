"""Intrinsics as other programs write them: from a file to the fields of one camera."""

"""FITS files: their layout, the telescope's metadata, and the conversion of a recording."""

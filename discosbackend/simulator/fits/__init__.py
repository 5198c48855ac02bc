"""The conversion of recordings to FITS files: layout, pointing, and the merge with the telescope's metadata."""

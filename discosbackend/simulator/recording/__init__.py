"""Recordings on disk: computing dumps, storing them, and running their conversion to FITS files."""

"""Recordings on disk: making dumps, storing them, and converting them to FITS files."""

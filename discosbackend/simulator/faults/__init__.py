"""Faults on purpose: their kinds, when they apply, and what they do."""

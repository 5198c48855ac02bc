"""Simulated measurements: the sky, the passband of the receiver, mean values and noise."""

"""Monitoring: what listens to the exchanges of a server."""

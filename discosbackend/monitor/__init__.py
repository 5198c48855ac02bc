"""Monitoring of a server: the flight recorder, counters, the clock, the pages of --http, and DISCOS telemetry."""

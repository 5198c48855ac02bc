"""What watches a server while it runs: counters, the health of the clock, the pages of --http, and DISCOS telemetry."""

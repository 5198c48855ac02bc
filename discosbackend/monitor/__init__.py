"""What watches a server while it runs: counters, the health of the clock, and the pages of --http."""

"""What watches a server while it runs: the flight recorder, counters, the clock, and the pages of --http."""

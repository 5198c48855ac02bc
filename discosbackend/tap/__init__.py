"""The tap, which passes connections on to any server and checks the lines; and the replay of recorded requests."""

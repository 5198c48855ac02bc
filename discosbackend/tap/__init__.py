"""The tap: passes the connections of clients on to a server, and understands what is said on them."""

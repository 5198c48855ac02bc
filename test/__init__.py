"""The tests, and with test_simulator_server the reusable TestCase at work."""

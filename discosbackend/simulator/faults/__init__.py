"""Fault injection for testing clients: the kinds of fault, when they apply, and their effects."""

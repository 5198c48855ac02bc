"""Between clients and any server: the tap understands what is said there, and replay sends recorded requests again."""

"""The description of an instrument: its records, the profiles that define them, sections, channels and tasks."""

"""What an instrument is: its records, the profiles they are read from, sections, channels and tasks."""

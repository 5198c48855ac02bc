"""`python -m discosbackend.client`: see command_line."""

from __future__ import annotations

from discosbackend.client.command_line import main

if __name__ == "__main__":
    main()

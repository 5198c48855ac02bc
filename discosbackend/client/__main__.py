"""The entry point of `python -m discosbackend.client`. See command_line.py."""

from __future__ import annotations

from discosbackend.client.command_line import main

if __name__ == "__main__":
    main(prog="python -m discosbackend.client")

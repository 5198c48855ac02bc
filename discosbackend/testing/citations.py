"""The numbers and titles of the sections of docs/protocol.md, and how a report cites one.

The page itself is not part of the installed package. A report therefore quotes the sentence that a case tests, and
names the section that contains it.
"""

from __future__ import annotations

__all__ = ["SECTIONS", "citation"]

SECTIONS = {
    "1": "Transport",
    "1.1": "Connections",
    "1.2": "Greeting",
    "1.3": "Line ends",
    "1.4": "Pieces of a line",
    "1.5": "Characters",
    "1.6": "Telnet negotiation",
    "1.7": "Length of a line",
    "1.8": "One reply to each request, in order",
    "1.9": "End of a connection",
    "1.10": "HTTP and TLS",
    "1.11": "Clients",
    "2": "Grammar",
    "2.1": "Messages",
    "2.2": "Names",
    "2.3": "Arguments",
    "2.4": "Escapes",
    "2.5": "What the server sends",
    "3": "Values",
    "3.1": "Integers",
    "3.2": "Floats",
    "3.3": "Booleans",
    "3.4": "Text",
    "3.5": "Timestamps in requests",
    "3.6": "Timestamps in replies",
    "3.7": "Paths",
    "3.8": "Wildcards",
    "4": "Commands",
    "4.1": "Which commands there are",
    "4.2": "Number and types of arguments",
    "4.3": "Status, version and time",
    "4.4": "Configuration",
    "4.5": "Measurements",
    "4.6": "Files",
    "4.7": "End of a schedule",
    "4.8": "What a method of the backend receives",
    "4.9": "Command reference",
    "5": "Replies",
    "5.1": "Codes",
    "5.2": "Lines that are not messages",
    "5.3": "Requests that fail",
    "5.4": "Order of the checks",
    "5.5": "Reasons",
    "5.6": "What a backend may return",
    "5.7": "Commas",
    "5.8": "Length of a reply",
    "6": "Lanes and limits",
    "6.1": "Lanes",
    "6.2": "Time limits",
    "6.3": "Commands in threads",
    "6.4": "Disconnected clients",
    "7": "Time-tagged start and stop",
    "7.1": "Without a timestamp",
    "7.2": "With a timestamp",
    "7.3": "Times that are refused",
    "7.4": "When a time comes due",
    "7.5": "Clock",
    "8": "Contradictions and what holds here",
    "8.1": "Timestamps",
    "8.2": "Codes and names in replies",
    "8.3": "Escapes, commas and tabs",
    "8.4": "Arguments and effects of commands",
    "8.5": "Line end",
    "9": "What the deployed clients do",
    "9.1": "Reading replies",
    "9.2": "Timeouts and reconnects",
    "9.3": "Scans",
    "9.4": "Values",
    "9.5": "Number of values",
    "9.6": "Polling",
    "9.7": "MISTRAL's client",
}
"""The title of each section, in the order of the page."""


def citation(section: str) -> str:
    """Return the text with which a report cites a section.

    Parameters
    ----------
    section
        The number of a section of docs/protocol.md, such as "1.3".

    Raises
    ------
    KeyError
        If there is no such section.

    Examples
    --------
    >>> from discosbackend.testing.citations import citation
    >>> citation("1.3")
    'docs/protocol.md, section 1.3 Line ends'
    """
    return f"docs/protocol.md, section {section} {SECTIONS[section]}"

"""The log as lines of JSON, for programs that collect logs. log.py writes the lines."""

from __future__ import annotations

import json
import logging
import time

from discosbackend.log import printable

__all__ = ["JsonFormatter"]


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: a JSON object, in ASCII.

    Its fields are texts: `time` (UT, such as `2026-11-28T10:55:50.123Z`), `level`, `logger` and `message`. A record
    with an exception also has `traceback`, and one with the stack of its caller has `stack`. Line ends are the only
    control characters in a text; all others are replaced by escapes, as in LineFormatter.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record. Called by logging."""
        # Whole ms, cut off as in the other format. record.msecs may be rounded up to 1000.
        whole, milliseconds = divmod(int(record.created * 1000), 1000)
        fields = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["traceback"] = record.exc_text
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        return json.dumps({name: _printable_lines(text) for name, text in fields.items()})


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))

"""The log for people: one event a line, whatever hostile text is in it."""

import logging
import logging.handlers
import re
import sys

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class OneLine(logging.Formatter):
    """Control characters, line ends included, are written as escapes.

    Tracebacks are ours and keep their lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _CONTROLS.sub(lambda c: f"\\x{ord(c[0]):02x}", record.message)
        return super().formatMessage(record)


def start_log(path: str, level: str) -> logging.Handler:
    """Log to `path`, or to standard error for "-".  A log that cannot be written stops nothing."""
    handler: logging.Handler
    if path == "-":
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def reopen_log(handler: logging.Handler) -> None:
    """Go on in a new file after somebody renamed the old one."""
    if isinstance(handler, logging.handlers.WatchedFileHandler):
        handler.acquire()
        try:
            handler.reopenIfNeeded()
        finally:
            handler.release()

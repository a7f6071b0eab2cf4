"""The log for people: one event a line, whatever hostile text is in it."""

import logging
import logging.handlers
import re
import sys

from gwrelay.errors import ConfigError

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class OneLine(logging.Formatter):
    """Control characters, line ends included, are written as escapes.

    Tracebacks are ours and keep their lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = _CONTROLS.sub(lambda c: f"\\x{ord(c[0]):02x}", record.message)
        return super().formatMessage(record)


def start_log(path: str, level: str, tag: str = "") -> logging.Handler:
    """Log to `path`, or to standard error for "-".  A log that cannot be written stops nothing.

    `tag` is behind the name in each line.  Each line is one write, to its end whoever else writes
    there: several processes may have one log.  Raises ConfigError when it cannot be opened.
    """
    handler: logging.Handler
    if path == "-":
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--log {path}: {error.strerror}; name another file") from error
    handler.setFormatter(OneLine(f"%(asctime)s %(levelname)s %(name)s{tag}: %(message)s"))
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

"""What the spool refuses, and why.  Which SpoolError it is decides the caller's answer."""


class SpoolError(Exception):
    """Everything this package raises on purpose, misuse (TypeError, KeyError) aside."""


class SpoolLocked(SpoolError):
    """Another process has this spool.  `pid` is the holder's, None if it could not be read."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(f"spool {path} is in use by {holder}")
        self.pid = pid


class SpoolFull(SpoolError):
    """No room on the disk for this batch, which is not in the log.  Later there may be room."""


class SpoolFailed(SpoolError):
    """The disk failed.  This batch will not be replayed; the next one goes to a fresh segment."""


class SpoolClosed(SpoolError):
    """The spool was closed before this call."""


class SpoolVersion(SpoolError):
    """Written by a newer program.  Nothing was touched."""

    def __init__(self, path: str, version: int, known: int) -> None:
        super().__init__(
            f"spool {path} has format version {version}; this program knows up to {known}"
        )
        self.version = version


class SpoolOwner(SpoolError):
    """The directory belongs to another user."""

    def __init__(self, path: str, owner: int, wanted: int) -> None:
        super().__init__(f"spool {path} belongs to user id {owner}, not to {wanted}")
        self.owner = owner


class CorruptFrame(SpoolError):
    """Bytes that should be a frame and are not.  `offset` in bytes, None for what is nowhere;
    `reason` is for people."""

    def __init__(self, offset: int | None, reason: str) -> None:
        super().__init__(reason if offset is None else f"{reason} at offset {offset}")
        self.offset = offset
        self.reason = reason

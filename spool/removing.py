"""Take away a whole spool in which nothing is left that anybody could want.

    checkpoint -> segments, oldest first -> the rest -> the directory

A crash on the way leaves an empty spool again: without the checkpoint the log tells all, and what
ends a key is never gone before what began it.
"""

import os

from spool.audit import Audit
from spool.checkpoint import NAME, NEW_NAME
from spool.files import LOCK, Files
from spool.quarantine import QUARANTINE
from spool.segment import number_of, spare_number_of


def remove_if_empty(path: str | os.PathLike[str]) -> str:
    """Remove the spool at `path`, of which nobody may have hold.  → "" when it is gone, else what
    it is kept for, in words.  Raises SpoolLocked, SpoolOwner, SpoolVersion, OSError."""
    files = Files(os.fspath(path), os.fsync)
    try:
        files.lock()
        reason = _reason_to_keep(path, files)
        if not reason:
            _remove(files)
        return reason
    finally:
        files.close()


def _reason_to_keep(path: str | os.PathLike[str], files: Files) -> str:
    with Audit(path) as audit:
        if keys := audit.keys():
            return f"it holds {len(keys)} messages"
        if audit.findings:
            return "it is damaged"
        if audit.quarantined:
            return "damaged parts are kept aside in it"
    strange = [name for name in files.names() if not _is_ours(name)]
    return f"it holds {min(strange)!r}" if strange else ""


def _is_ours(name: str) -> bool:
    known = name in (NAME, NEW_NAME, LOCK, QUARANTINE)
    return known or number_of(name) is not None or spare_number_of(name) is not None


def _remove(files: Files) -> None:
    names = files.names()
    checkpoint = [name for name in names if name == NAME]
    segments = sorted(name for name in names if number_of(name) is not None)
    rest = [n for n in names if n not in (*checkpoint, *segments, LOCK, QUARANTINE)]
    for name in (*checkpoint, *segments, *rest):
        files.remove(name)
        files.sync_directory()
    if QUARANTINE in names:
        files.remove_directory(QUARANTINE)
    files.remove_itself()

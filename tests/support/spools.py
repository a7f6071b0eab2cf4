"""What tests do to the files of a spool."""

from pathlib import Path

from spool.checkpoint import NAME


def forget_checkpoint(path: Path) -> None:
    """So that the next start reads all of the log."""
    (path / NAME).unlink(missing_ok=True)

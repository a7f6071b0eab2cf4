"""Suspensions over a restart: a JSON file in the spool's top directory, replaced as a whole.

Not in the log: a start accepts and relays while it reads that, and may not send what is suspended
before it has come to the place where that is said.  And they are the node's, whichever worker's
log a message is in.
"""

import os
from pathlib import Path

import msgspec

from gwrelay.errors import ConfigError
from gwrelay.relay.suspensions import Suspended
from gwrelay.spooldirectory import SUSPENSIONS


def read(directory: str | os.PathLike[str]) -> list[Suspended]:
    """What was suspended when it was last written; nothing when it never was.

    Raises ConfigError when it cannot be read, for mail might go that should not.
    """
    path = Path(directory, SUSPENSIONS)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Suspended])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path}: {reason}; mend it, or remove it to end all suspensions"
        ) from error


def write(directory: str | os.PathLike[str], suspended: list[Suspended]) -> None:
    """Durable on return; raises OSError, and then the old ones stand there still."""
    # Each worker is told what is suspended, and writes it.
    path = Path(directory, SUSPENSIONS)
    new = path.with_name(f"{SUSPENSIONS}.{os.getpid()}")
    with open(new, "wb", opener=_for_us_alone) as file:
        file.write(msgspec.json.format(msgspec.json.encode(suspended)))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(top)
    finally:
        os.close(top)


def _for_us_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

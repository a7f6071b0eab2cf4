"""The certificate that clients are shown, and its key: read, checked, and read again on SIGHUP.

Whoever starts the gateway reads the files, as root where there is a --user, and gives them to its
workers in memory, so that these files may be root's alone.  A worker asks that memory, both when it
starts and when it is told to look again.  What cannot be used never takes the place of what can.
"""

import fcntl
import logging
import os
import ssl
import stat
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gwrelay.config import Settings
from gwrelay.errors import ConfigError
from gwrelay.processes.handover import unnamed_file
from gwrelay.smtp.tls import failure, server_context

logger = logging.getLogger(__name__)

#: Certificates are a few KiB; a file larger than this is something else.
_LARGEST_BYTES = 1024 * 1024


class Pair(NamedTuple):
    """What the two files hold, in PEM."""

    certificate: bytes
    key: bytes


class _Encrypted(Exception):
    """The key wants a password."""


class Certificate:
    """What clients are shown just now.  Raises ConfigError when it cannot be used."""

    def __init__(self, settings: Settings, source: Callable[[], Pair] | None = None) -> None:
        """`source` None: the files that `settings` name."""
        self._settings = settings
        self._source = source or (lambda: _read_files(settings))
        self.pair = self._source()
        #: For sessions that begin now.
        self.context = _context(settings, self.pair)

    def reload(self) -> None:
        """Take what is there now, if it can be used; else go on with what was there before."""
        try:
            pair = self._source()
            if pair == self.pair:
                return
            self.context = _context(self._settings, pair)
        except ConfigError as error:
            logger.error("%s; clients are shown the certificate from before", error)
        else:
            self.pair = pair
            logger.info("clients are shown the new certificate of %s", self._settings.tls_cert)


def read_certificate(settings: Settings) -> Certificate | None:
    """None when clients are to have no TLS.  Raises ConfigError."""
    return Certificate(settings) if settings.tls_cert else None


# -- from the process that reads the files to its workers ------------------------------------


def share(certificate: Certificate) -> int:
    """The descriptor of a file in memory, for Handover.certificate."""
    return unnamed_file(msgspec.msgpack.encode(certificate.pair))


def share_again(descriptor: int, certificate: Certificate) -> None:
    """Put what is there now in place of what share() put there."""
    content = msgspec.msgpack.encode(certificate.pair)
    # A worker that is just starting may be reading.
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def shared(descriptor: int, settings: Settings) -> Certificate:
    """What share() put there, in another process."""

    def read() -> Pair:
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        try:
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        return msgspec.msgpack.decode(content, type=Pair)

    return Certificate(settings, read)


# -- files ----------------------------------------------------------------------------------


def _read_files(settings: Settings) -> Pair:
    certificate, _ = _read(f"--tls-cert {settings.tls_cert}", settings.tls_cert)
    origin = f"--tls-key {settings.tls_key}"
    key, status = _read(origin, settings.tls_key)
    # Who is in the group of a file of root's was put there by root: Debian's ssl-cert is so.
    forbidden = 0o037 if status.st_uid == 0 else 0o077
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise ConfigError(
            f"{origin}: others may read it (mode {mode:04o}), and it is secret; chmod 600 it, and "
            "have a new one made if anybody did"
        )
    return Pair(certificate, key)


def _read(origin: str, path: str) -> tuple[bytes, os.stat_result]:
    try:
        # A pipe that nobody writes to would hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            return file.read(_LARGEST_BYTES), os.fstat(descriptor)
    except OSError as error:
        raise ConfigError(f"{origin}: cannot be read: {error.strerror or error}") from None


def _context(settings: Settings, pair: Pair) -> ssl.SSLContext:
    """Raises ConfigError when the two are not what they should be, or not of one another."""
    certificate, key = f"--tls-cert {settings.tls_cert}", f"--tls-key {settings.tls_key}"
    if b"CERTIFICATE-----" not in pair.certificate:
        raise ConfigError(f"{certificate}: there is no certificate in it; name a file in PEM")
    if b"PRIVATE KEY-----" not in pair.key:
        raise ConfigError(f"{key}: there is no private key in it; name a file in PEM")
    context = server_context(settings.tls_min)
    try:
        _load(context, pair)
    except _Encrypted:
        raise ConfigError(
            f"{key}: it is encrypted, and nobody could type its password when the gateway starts; "
            "name a file with the key in the clear (openssl pkey), mode 0600"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{key}: is not the key of the first certificate in {settings.tls_cert}"
            ) from None
        raise ConfigError(
            f"{certificate}, {key}: cannot be used: {failure(error)}; name files in PEM, the "
            "server's own certificate before those that vouch for it"
        ) from None
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """The library takes files only."""
    descriptors = [unnamed_file(content) for content in pair]
    certificate, key = (f"/proc/self/fd/{descriptor}" for descriptor in descriptors)
    try:
        context.load_cert_chain(certificate, key, _no_password)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _no_password() -> str:
    raise _Encrypted

"""TLS over a connected socket, every call within one deadline (RFC 8446; for SMTP, RFC 3207).

Knows how; whether, and what must be verified, is said by relay/tlspolicy.py.

The records go through memory, and the socket below is read and written here.  Under gevent a
TLS socket starts its timer again at each part of a record, so that a peer which trickles a
handshake would hold its session for ever.  Besides, a reply costs one read of the socket
instead of three.
"""

import contextlib
import socket
import ssl
import time

#: The most that we put into one record; 16 KiB are allowed (RFC 8446 5.1).  The memory between
#: us and the socket grows to somewhat more than this and never shrinks, for every session.
RECORD_BYTES = 8 * 1024
RECEIVE_BYTES = 16 * 1024
#: What may be received without any content coming of it: a handshake with its certificates
#: (OpenSSL takes 100 KiB of these), session tickets, changes of keys.
MAX_OVERHEAD_BYTES = 256 * 1024

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def client_context(*, verify: bool, minimum: str = "1.2", ca_file: str = "") -> ssl.SSLContext:
    """For sessions that verify chain and name, or neither (RFC 7435: `may` and `encrypt`).

    `ca_file` "" is the system's.  Raises OSError when it cannot be read or has no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def server_context(minimum: str = "1.2") -> ssl.SSLContext:
    """For clients' sessions, which bring no certificate; ours is still to be loaded into it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def failure(error: OSError) -> str:
    """Why TLS came to nothing, in words for people."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)


class TlsSocket:
    """One end of a TLS session, with those methods of a socket that smtp/ uses.

    As with a socket, 0 in settimeout() means not to wait at all.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """`server_name` is whom we speak to; None: ours is the server's end.  `session` must be of
        the same context.  ValueError for a name that TLS cannot name."""
        self._sock = sock
        self._timeout_s = 0.0
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
            session=session,
        )
        self._unsent = b""
        self._overhead_bytes = 0

    def settimeout(self, seconds: float) -> None:
        """For each of the following calls as a whole."""
        self._timeout_s = seconds

    def handshake(self) -> None:
        """Raises OSError (ssl.SSLError is one): then only close() is left."""
        deadline = self._deadline()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._fill(deadline):
                    raise ConnectionError("closed by the other end") from None
            except ssl.SSLError:
                self._tell_why()
                raise
            else:
                return self._flush(deadline)

    def _tell_why(self) -> None:
        """Send the alert, if there is room for it: the other end's log may name the reason."""
        with contextlib.suppress(OSError):
            self._sock.settimeout(0)
            self._sock.send(self._outgoing.read())

    def send(self, octets: bytes | memoryview) -> int:
        self.sendall(octets)
        return memoryview(octets).nbytes

    def sendall(self, octets: bytes | memoryview) -> None:
        deadline = self._deadline()
        view = memoryview(octets)
        for start in range(0, len(view), RECORD_BYTES):
            self._tls.write(view[start : start + RECORD_BYTES])
            self._flush(deadline)

    def recv(self, size: int) -> bytes:
        """b"" when the other end has closed, whether or not it said so in TLS."""
        deadline = self._deadline()
        while True:
            # Asked first: a read in vain costs as much as a system call.
            if self._incoming.pending or self._tls.pending():
                received = self._read(size, deadline)
                if received is not None:
                    return received
            if not self._fill(deadline):
                return b""

    def _read(self, size: int, deadline: float) -> bytes | None:
        """What has come, decrypted; None when that is not yet a record of content."""
        try:
            received: bytes = self._tls.read(size)
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self._flush(deadline)  # the answer to a change of keys
            return None
        except ssl.SSLZeroReturnError:
            return b""
        self._overhead_bytes = 0
        return received

    def _fill(self, deadline: float) -> bool:
        """Receive what there is, waiting for it; False at the end of the connection."""
        self._set_timer(deadline)
        received = self._sock.recv(RECEIVE_BYTES)
        self._overhead_bytes += len(received)
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            raise OSError(f"more than {MAX_OVERHEAD_BYTES} bytes of TLS without content")
        self._incoming.write(received)
        return bool(received)

    def _flush(self, deadline: float) -> None:
        # What the socket did not take stays, or the next record would be none.
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._set_timer(deadline)
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _set_timer(self, deadline: float) -> None:
        left_s = deadline - time.monotonic() if self._timeout_s else 0.0
        if self._timeout_s and left_s <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)

    def say_goodbye(self) -> None:
        """Tell the other end that nothing more comes (RFC 8446 6.1), if there is room for it."""
        with contextlib.suppress(OSError):
            self._tls.unwrap()
        goodbye, self._unsent = self._unsent + self._outgoing.read(), b""
        if goodbye:
            with contextlib.suppress(OSError):
                self._sock.settimeout(0)
                self._sock.send(goodbye)

    def close(self) -> None:
        """At once, without a TLS goodbye that a silent peer could hold up."""
        self._sock.close()

    @property
    def protection(self) -> str:
        """Version and cipher, like "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
        cipher = self._tls.cipher()
        return f"{self._tls.version()} {cipher[0] if cipher else ''}"

    @property
    def session(self) -> ssl.SSLSession | None:
        """To resume; with TLS 1.3 there is none before the first recv() that brought content."""
        session = self._tls.session
        return session if session is not None and session.has_ticket else None

    @property
    def is_resumed(self) -> bool:
        return bool(self._tls.session_reused)

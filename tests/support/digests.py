"""Large mail without holding it: a client and a server that only keep digests of content."""

import hashlib
import socket
import threading
from typing import NamedTuple, Self

#: Digests begin here: what stands before was added on the way.
MARK = b"X-Large: "
_END = b"\r\n.\r\n"


class Digest(NamedTuple):
    """Of content as it is on the wire, dots stuffed."""

    size_bytes: int
    sha256: str


def _lines(sock: socket.socket) -> tuple[bytes, bytes]:
    """One line, and what was read beyond it."""
    received = b""
    while b"\r\n" not in received:
        chunk = sock.recv(65536)
        if not chunk:
            raise ConnectionError("closed")
        received += chunk
    line, _, rest = received.partition(b"\r\n")
    return line, rest


def send_large(port: int, recipient: str, block: bytes, count: int) -> Digest:
    """Send `count` times `block` (stuffed lines, with their CRLF) as one message."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        replies = sock.makefile("rb")

        def ask(command: bytes, code: bytes) -> None:
            sock.sendall(command)
            while (line := replies.readline())[3:4] == b"-":
                pass
            assert line.startswith(code), line

        ask(b"", b"220")
        ask(b"EHLO large.example\r\n", b"250")
        ask(b"MAIL FROM:<large@source.example>\r\n", b"250")
        ask(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
        ask(b"DATA\r\n", b"354")
        head = MARK + recipient.encode() + b"\r\n\r\n"
        sha = hashlib.sha256(head)
        sock.sendall(head)
        for _ in range(count):
            sha.update(block)
            sock.sendall(block)
        ask(b".\r\n", b"250")
    return Digest(len(head) + count * len(block), sha.hexdigest())


class DigestSink:
    """Takes any mail, one message a session at a time; `digests` has one for each."""

    def __init__(self) -> None:
        self.digests: list[Digest] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def spec(self) -> str:
        return "{}:{}".format(*self._listener.getsockname())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.sendall(b"220 digests\r\n")
            try:
                while self._obey(sock, *_lines(sock)):
                    pass
            except OSError:
                return  # the gateway's end of it

    def _obey(self, sock: socket.socket, line: bytes, rest: bytes) -> bool:
        """Without PIPELINING: one command, one reply."""
        verb = line[:4].upper()
        if verb == b"DATA":
            sock.sendall(b"354 go on\r\n")
            self.digests.append(_digest(sock, rest))
        if verb == b"EHLO":
            sock.sendall(b"250-digests\r\n250 8BITMIME\r\n")
        else:
            sock.sendall(b"250 ok\r\n")
        return verb != b"QUIT"


def _digest(sock: socket.socket, rest: bytes) -> Digest:
    sha, size_bytes = hashlib.sha256(), 0
    tail = rest
    while MARK not in tail:
        tail += sock.recv(65536)
    tail = tail[tail.index(MARK) :]
    while not tail.endswith(_END):
        settled = max(0, len(tail) - len(_END))
        sha.update(tail[:settled])
        size_bytes += settled
        chunk = sock.recv(262144)
        if not chunk:
            raise ConnectionError("closed in the content")
        tail = tail[settled:] + chunk
    sha.update(tail[: 2 - len(_END)])
    return Digest(size_bytes + len(tail) + 2 - len(_END), sha.hexdigest())

"""Clients that hand mail to the gateway: one message, or a load that keeps count."""

import random
import smtplib
import threading
from collections.abc import Sequence

DOMAIN = "dest.example"


def submit(
    port: int,
    reverse_path: str,
    recipients: Sequence[str],
    content: bytes = b"Subject: test\r\n\r\nHello.\r\n",
    *,
    mail_parameters: str = "",
    rcpt_parameters: str = "",
    source: str = "127.0.0.1",
    host: str = "127.0.0.1",
) -> str:
    """Hand in one message, byte-exact; returns the text of the 250 to its final dot.

    smtplib's own mail(), rcpt() and sendmail() are not used: they rewrite addresses and bare
    line ends, and would test themselves.  Raises smtplib.SMTPResponseException (code, text)
    for the first reply that is not positive.
    """
    with smtplib.SMTP(host, port, local_hostname="client.example", source_address=(source, 0)) as c:
        expect(c, "EHLO client.example")
        return transact(c, reverse_path, recipients, content, mail_parameters, rcpt_parameters)


def transact(
    client: smtplib.SMTP,
    reverse_path: str,
    recipients: Sequence[str],
    content: bytes,
    mail_parameters: str = "",
    rcpt_parameters: str = "",
) -> str:
    """One transaction in an open session that has said EHLO."""
    expect(client, f"MAIL FROM:<{reverse_path}> {mail_parameters}".rstrip())
    for recipient in recipients:
        expect(client, f"RCPT TO:<{recipient}> {rcpt_parameters}".rstrip())
    expect(client, "DATA", 3)
    client.send(stuffed(content) + b".\r\n")
    return _judge(client, 2)


def expect(client: smtplib.SMTP, line: str, positive: int = 2) -> str:
    """Send a command; its reply's text.  Raises unless the reply is of class `positive`."""
    client.send(line.encode() + b"\r\n")
    return _judge(client, positive)


def _judge(client: smtplib.SMTP, positive: int) -> str:
    code, text = client.getreply()
    if code // 100 != positive:
        raise smtplib.SMTPResponseException(code, text)
    return text.decode("utf-8", "replace")


def stuffed(content: bytes) -> bytes:
    """`content`, whose lines end in CRLF, with its dots doubled (RFC 5321 4.5.2)."""
    assert not content or content.endswith(b"\r\n"), "content must end in CRLF"
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]


class Load:
    """Threads that send tagged messages until stopped, and remember which were answered 250.

    The tag is the local part of the one recipient: r<number>@dest.example.  A connection that
    breaks is opened again at `port`, which may be changed meanwhile; what was not answered is
    sent again under a new tag, so a tag arriving twice was delivered twice.
    """

    def __init__(self, port: int, *, threads: int = 8, size: tuple[int, int] = (200, 6000)) -> None:
        self.port = port
        self.size = size
        #: Recipients of the messages that were answered 250.
        self.acknowledged: set[str] = set()
        #: What the gateway said that was neither 250 nor the end of the connection.
        self.refused: list[tuple[int, bytes]] = []
        self._next = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(threads)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a client of the load hangs"

    def _tag(self) -> str:
        with self._lock:
            self._next += 1
            return f"r{self._next}@{DOMAIN}"

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stopping.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=20) as client:
                    expect(client, "EHLO client.example")
                    self._send(client, chance)
            except smtplib.SMTPResponseException as error:
                # 421 and the like; before it is asked again, the gateway may take a breath.
                self.refused.append((error.smtp_code, error.smtp_error))
                self._stopping.wait(0.05)
            except (OSError, smtplib.SMTPException):
                self._stopping.wait(0.02)  # it is down: a later round finds it at the new port

    def _send(self, client: smtplib.SMTP, chance: random.Random) -> None:
        while not self._stopping.is_set():
            tag = self._tag()
            body = b"x" * 70 + b"\r\n"
            content = f"Subject: {tag}\r\n\r\n".encode() + body * (
                chance.randint(*self.size) // len(body)
            )
            transact(client, "load@source.example", [tag], content)
            with self._lock:
                self.acknowledged.add(tag)

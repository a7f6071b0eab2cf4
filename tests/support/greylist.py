"""A greylist: whoever is not known yet is put off for some seconds.

Speaks the policy protocol of Postfix (SMTPD_POLICY_README): lines of NAME=VALUE, ended by an empty
one; the answer is a line ACTION and an empty one, and the connection may go on.  Exim can ask the
same by ${readsocket}.

    with Greylist(0.7, known=["friend@b.example"]) as greylist:
        Postfix(..., greylist.in_postfix)
        Exim(..., rcpt_acl=greylist.in_exim)
"""

import socketserver
import threading
import time
from collections.abc import Collection
from typing import NamedTuple, Self

WORDS = "Greylisted, come back later"


class Triplet(NamedTuple):
    client: str
    reverse_path: str
    recipient: str


class Greylist:
    """Answers on loopback.  `known` are recipients that are never put off."""

    def __init__(self, delay_s: float, known: Collection[str] = ()) -> None:
        self.delay_s = delay_s
        self._known = known
        self._first_seen: dict[Triplet, float] = {}
        #: Who was asked about, in order.
        self.asked: list[Triplet] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Conversation)
        self._server.greylist = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def in_postfix(self) -> dict[str, str]:
        """What a Postfix is to be set to."""
        restriction = f"check_policy_service inet:127.0.0.1:{self.port}"
        return {
            "smtpd_recipient_restrictions": f"{restriction}, permit_mynetworks, reject",
            # It would be slower and slower to a session in which ten commands were refused.
            "smtpd_error_sleep_time": "0",
        }

    @property
    def in_exim(self) -> str:
        """The verb of an ACL at RCPT."""
        request = (
            "client_address=$sender_host_address\\nsender=$sender_address\\n"
            "recipient=$local_part@$domain\\n\\n"
        )
        answer = f"${{readsocket{{inet:127.0.0.1:{self.port}}}{{{request}}}{{5s}}}}"
        return (
            f"  defer condition = ${{if match{{{answer}}}{{DEFER}}}}\n"
            f"        message = 4.7.1 {WORDS}\n"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, request: dict[str, str]) -> str:
        names = "client_address", "sender", "recipient"
        triplet = Triplet(*(request.get(name, "") for name in names))
        now = time.monotonic()
        with self._lock:
            self.asked.append(triplet)
            waited_s = now - self._first_seen.setdefault(triplet, now)
        if triplet.recipient in self._known or waited_s >= self.delay_s:
            return "DUNNO"
        return f"DEFER_IF_PERMIT {WORDS}"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # Postfix keeps its connections for as long as its processes live.
    block_on_close = False
    greylist: Greylist


class _Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        request: dict[str, str] = {}
        for raw in self.rfile:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition("=")
                request[name] = value
            else:
                action = self.server.greylist.answer(request)
                self.wfile.write(f"action={action}\n\n".encode())
                request = {}

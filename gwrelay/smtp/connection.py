"""One session with a next hop: open, greet, EHLO, STARTTLS, AUTH, QUIT, over smtplib.

Knows nothing of messages; see transaction.py.  What the next hop says comes back as a
Reply, whatever it is; losing the connection, or hearing what is no SMTP, raises
ConnectionLost with the stage it happened in; see client.py.
"""

import base64
import re
import socket
import ssl
import time
from collections.abc import Callable, Collection, Mapping

from gwrelay.errors import ConnectionLost, SessionRefused
from gwrelay.message import outcome
from gwrelay.message.outcome import Kind
from gwrelay.message.reply import Reply
from gwrelay.smtp import sasl
from gwrelay.smtp.client import Client, Patience, in_words
from gwrelay.smtp.tls import TlsSocket
from gwrelay.smtp.transcript import Transcript

#: Seconds for each stage, RFC 5321 4.5.3.2 where it names one.  Connect, STARTTLS and QUIT
#: are ours.  Ten minutes for the final dot: a shorter timer makes duplicates, because they
#: accept the message while we hang up and queue it again.
TIMEOUTS_S: Mapping[str, float] = {
    outcome.CONNECT: 30,
    outcome.BANNER: 300,
    outcome.EHLO: 300,
    outcome.STARTTLS: 60,
    outcome.AUTH: 300,
    outcome.MAIL: 300,
    outcome.RCPT: 300,
    outcome.DATA: 120,
    outcome.CONTENT: 180,
    outcome.DOT: 600,
    outcome.RSET: 20,
    outcome.QUIT: 5,
}

#: RFC 5321 4.5.3.1.4; an initial response that makes AUTH longer is sent apart (RFC 4954 4).
_COMMAND_BYTES = 512

#: Bytes a second that content must be taken at, one block's time aside.  A next hop that takes
#: one byte now and then would hold a session for days.
MIN_DATA_RATE = 500

#: Of a client, as servers write it: [192.0.2.1], [IPv6:2001:db8::1].
_ADDRESS_LITERAL = re.compile(r"\[(?:IPv6:)?([0-9a-f:.]{3,45})\]", re.IGNORECASE)


class Connection:
    """A session with one address of one exchange."""

    def __init__(
        self,
        local_hostname: str,
        *,
        timeouts_s: Mapping[str, float] = TIMEOUTS_S,
        reply_max_bytes: int = 64 * 1024,
        source: str = "",
        min_data_rate: float = MIN_DATA_RATE,
        pipelining: bool = True,
        patience: Callable[[socket.socket], Patience] | None = None,
        transcript: Transcript | None = None,
    ) -> None:
        self._client = Client(local_hostname, timeouts_s, reply_max_bytes)
        self._client.transcript = transcript
        self._source = source
        self._block_s = timeouts_s[outcome.CONTENT]
        #: Bytes a second that content must be taken at.
        self.min_data_rate = min_data_rate
        self._pipelining = pipelining
        self._patience = patience
        self._opened_at = time.monotonic()
        self.exchange = ""
        self.address = ""
        self.port = 0
        #: Messages sent, or tried, over this session.
        self.transactions = 0
        #: Commands that were refused since a message was taken.
        self.refusals = 0
        #: The two ends may have lost step: no further message may use this session.
        self.spoiled = False
        #: On the reply that was read last.
        self.verdict = outcome.verdict_on_loss(outcome.CONNECT)
        #: What EHLO offered, lower case, with its parameters; and what follows of it.
        self.extensions: Mapping[str, str] = {}
        self.may_pipeline = False
        #: What SIZE announces (RFC 1870 4); 0 when it names no limit.
        self.size_limit_bytes = 0
        #: A transaction was left open: RSET must come before the next MAIL.
        self.needs_rset = False
        #: How it is encrypted, for people: version, cipher, "verified" or "unverified".
        self.tls = ""
        self.is_verified = False
        #: Whose envelope was sent along with the final dot before; its replies are still to come.
        self.sent_ahead: object | None = None

    def open(
        self,
        address: str,
        port: int,
        exchange: str,
        *,
        implicit_tls: ssl.SSLContext | None = None,
        tls_session: ssl.SSLSession | None = None,
    ) -> Reply:
        """Connect to `address` and read the banner.  `exchange` is the name TLS verifies.

        With `implicit_tls` everything is encrypted, the banner too (RFC 8314 3.3).
        """
        self.exchange, self.address, self.port = exchange, address, port
        client = self._client
        client.open(address, port, self._source)
        if implicit_tls is not None:
            client.stage = outcome.STARTTLS
            self._encrypt(implicit_tls, tls_session, client.deadline())
        elif self._patience is not None:
            client.patience = self._patience(client.connected())
        return self.read(outcome.BANNER)

    @property
    def stage(self) -> str:
        """Where the session is: the stage of the last command."""
        return self._client.stage

    @property
    def moves(self) -> int:
        """Times that bytes went out, or came in: it grows while anything moves."""
        return self._client.moves

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._opened_at

    def ehlo(self) -> Reply:
        self._client.stage = outcome.EHLO
        self._client.ehlo()
        self._note_extensions(self._client.esmtp_features)
        return self._client.reply

    def helo(self) -> Reply:
        self._client.stage = outcome.EHLO
        self._client.helo()
        return self._client.reply

    def starttls(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Reply:
        """Encrypt; on 220 everything EHLO said is forgotten (RFC 3207 4.2): ask again.

        Command and handshake have the time of one stage together.  `session` is one that
        tls_session gave for the same context and exchange.
        """
        client = self._client
        client.stage = outcome.STARTTLS
        deadline = client.deadline()
        if not self.offers("starttls"):
            self.close()
            raise SessionRefused(outcome.STARTTLS, "STARTTLS is not offered", "4.7.4")
        client.putcmd("STARTTLS")
        client.getreply()
        if client.reply.code != 220:
            if client.reply.is_positive:
                # Neither a refusal nor the go-ahead: going on in the clear is what it asks for.
                self.note_breach()
                self.close()
                raise ConnectionLost(outcome.STARTTLS, f"answered by {client.reply}", "4.7.5")
            return client.reply
        if len(client.reader):
            # Plaintext behind the 220 would be read as if it came through TLS
            # (CVE-2021-38371).
            self.note_breach()
            self.close()
            raise ConnectionLost(outcome.STARTTLS, "plaintext was sent behind the 220", "4.7.5")
        self._encrypt(context, session, deadline)
        client.helo_resp = client.ehlo_resp = None
        client.esmtp_features.clear()
        self._note_extensions({})
        return client.reply

    def _note_extensions(self, extensions: Mapping[str, str]) -> None:
        self.extensions = extensions
        self.may_pipeline = self._pipelining and "pipelining" in extensions
        self.size_limit_bytes = _size_limit_bytes(extensions.get("size", ""))

    def _encrypt(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None, deadline: float
    ) -> None:
        client = self._client
        # An address literal in a recipient's place has no name; its certificate may have the
        # address (RFC 9525 6.5).
        name = self.address if self.exchange.startswith("[") else self.exchange
        try:
            encrypted = TlsSocket(client.connected(), context, name, session)
            encrypted.settimeout(max(deadline - time.monotonic(), 0.001))
            encrypted.handshake()
        except (OSError, ValueError) as error:  # ValueError: a name that TLS cannot name
            self.close()
            reason = f"TLS failed: {in_words(error)}"
            raise ConnectionLost(outcome.STARTTLS, reason, "4.7.5") from error
        client.encrypt(encrypted)
        self.is_verified = context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
        self.tls = f"{encrypted.protection} {'verified' if self.is_verified else 'unverified'}"

    def note_breach(self) -> None:
        """The other end broke the protocol, which is why it is lost now."""
        self._client.is_breached = True

    @property
    def is_breached(self) -> bool:
        return self._client.is_breached

    @property
    def transcript(self) -> tuple[str, ...]:
        transcript = self._client.transcript
        return () if transcript is None else transcript.lines()

    @property
    def is_encrypted(self) -> bool:
        return bool(self.tls)

    @property
    def tls_session(self) -> ssl.SSLSession | None:
        """What shortens the next handshake with this host, once a reply came through TLS."""
        sock: object = self._client.sock
        return sock.session if isinstance(sock, TlsSocket) else None

    @property
    def is_resumed(self) -> bool:
        """Whether the handshake was shortened so."""
        sock: object = self._client.sock
        return isinstance(sock, TlsSocket) and sock.is_resumed

    def login(self, given: sasl.Credentials) -> Reply:
        """AUTH (RFC 4954) by the strongest mechanism both know, and when that is refused by the
        next; any reply but 2xx is the last one's refusal.

        Raises SessionRefused when there is none, or the server does not keep to it.
        """
        offered = str(self.extensions.get("auth", "")).split()
        self._client.stage = outcome.AUTH
        problem = "no AUTH mechanism is offered that we know"
        reply = None
        for mechanism in sasl.choose(offered):
            try:
                reply = self._authenticate(mechanism(given))
            except sasl.SaslError as error:
                problem = f"AUTH {mechanism.name} failed: {error}"
                continue
            if not reply.is_permanent:
                return reply
        if reply is not None:
            return reply
        raise SessionRefused(outcome.AUTH, problem, "4.7.0")

    def _authenticate(self, mechanism: sasl.Mechanism) -> Reply:
        """One exchange.  A success that the mechanism does not believe is none (RFC 5802 3)."""
        initial = mechanism.initial
        line = f"AUTH {mechanism.name}"
        if initial is not None and len(line) + 3 + 4 * len(initial) // 3 < _COMMAND_BYTES:
            line, initial = f"{line} {_to_base64(initial)}", None
        reply = self._ask(line)
        while reply.code == 334:
            try:
                challenge = sasl.from_base64(reply.text)
                response = mechanism.respond(challenge) if initial is None else initial
            except sasl.SaslError:
                self._ask("*")  # RFC 4954 4: cancelled; whatever it says to that
                raise
            reply, initial = self._ask(_to_base64(response)), None
        if reply.is_positive and not mechanism.is_complete:
            self.close()
            raise SessionRefused(outcome.AUTH, "the server did not prove itself", "4.7.0")
        return reply

    def _ask(self, line: str) -> Reply:
        self._client.putcmd(line)
        self._client.getreply()
        return self._client.reply

    def offers(self, extension: str) -> bool:
        """Whether the EHLO reply names `extension` (lower case)."""
        return extension in self.extensions

    def command(self, stage: str, line: bytes) -> Reply:
        self.send(stage, line)
        return self.read(stage)

    def send(self, stage: str, octets: bytes) -> None:
        self._client.stage = stage
        self._client.send(octets)

    def send_block(self, stage: str, octets: bytes, began: float, sent_bytes: int) -> None:
        """One block of content, of which `sent_bytes` are gone since `began` (monotonic), over a
        session that is_quiet().

        A block has its own time (RFC 5321 4.5.3.2.5); all of them together have that of one
        block, and what they take at the least data rate.  `stage` is DOT for a block that may
        be lost when the final dot in it is not.
        """
        client = self._client
        client.stage = stage
        within_s = self._block_s
        if sent_bytes:
            allowed_s = within_s + (sent_bytes + len(octets)) / self.min_data_rate
            within_s = min(within_s, began + allowed_s - time.monotonic())
        if within_s <= 0:
            self.close()
            raise ConnectionLost(outcome.CONTENT, "content is taken too slowly")
        client.write(octets, within_s)

    def read(self, stage: str, *, moot: bool = False) -> Reply:
        """The next reply.  `moot`: to a pipelined command that an earlier refusal undid, so
        that "out of sequence" is the right answer and no sign of lost step."""
        client = self._client
        client.stage = stage
        reply = client.read()
        verdict = outcome.verdict_on(stage, reply)
        kind = verdict.kind
        if kind is not None:
            self.refusals = 0 if kind is Kind.DELIVERED else self.refusals + 1
            if kind is Kind.FAILED:
                verdict = outcome.verdict_on(stage, reply, self._our_addresses())
        self.verdict = verdict
        if verdict.closes and not (moot and reply.is_permanent):
            self.spoiled = True
        return reply

    def _our_addresses(self) -> Collection[str]:
        """As this machine knows them and, where addresses are translated on the way, as the other
        end sees them: many name the client in their reply to EHLO."""
        client = self._client
        greeted = (client.ehlo_resp or client.helo_resp or b"").decode(errors="replace")
        return {client.own_address, *_ADDRESS_LITERAL.findall(greeted)}

    @property
    def has_surplus(self) -> bool:
        """Whether more was received than the replies read so far; a 421 may come at any time
        (RFC 5321 3.8), and is none."""
        reader = self._client.reader
        return len(reader) > 0 and not reader.goes_on_with(b"421")

    def is_quiet(self) -> bool:
        """Whether a session that owes us no reply may go on.  When not, only close() is left.

        A 421 or a close that came meanwhile is waiting in the socket; anything else that
        nobody asked for is no better.
        """
        client = self._client
        sock = client.sock
        if sock is None or len(client.reader):
            return False
        if client.patience is not None:
            return not client.patience.has_come()
        try:
            client.set_timeout(sock, 0.0)
            sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def quit(self) -> None:
        """Say QUIT and hang up; nobody waits for the answer."""
        if self.sent_ahead is not None:
            # Its DATA may have been taken, and QUIT would be content.
            self.close()
            return
        try:
            self.send(outcome.QUIT, b"QUIT\r\n")
        except ConnectionLost:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket at once; no TLS goodbye that a silent peer could hold up."""
        self._client.close()

    @property
    def is_open(self) -> bool:
        return self._client.sock is not None


def _to_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _size_limit_bytes(announced: str) -> int:
    """At most 20 digits (RFC 1870 4): int() refuses thousands of them by ValueError."""
    announced = announced.strip()
    return int(announced) if re.fullmatch("[0-9]{1,20}", announced) else 0

"""The accepting side of SMTP as a table: bytes in, events and replies out (RFC 5321).

No sockets, no clock, no greenlets.  The caller feeds what it received, sends what output()
gives, and answers each Submission once it knows what became of it.

Only CRLF ends a line and only CRLF.CRLF ends content (RFC 5321 2.3.8, 4.1.1.4).  A line with
a bare CR or LF is one bad command, never two commands.

Extensions: PIPELINING (2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531),
ENHANCEDSTATUSCODES (2034), DSN (3461), and STARTTLS (3207) where the policy offers it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, NamedTuple

from gwrelay.message.address import AddressError
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.reply import Reply
from gwrelay.smtp import answers
from gwrelay.smtp.answers import (
    GONE_ASTRAY,
    HELLO_FIRST,
    MAIL_FIRST,
    NESTED_MAIL,
    NO_RECIPIENTS,
)
from gwrelay.smtp.commands import (
    MAX_SANE_LINE_BYTES,
    NOT_OFFERED_VERBS,
    CommandError,
    MailCommand,
    is_binary,
    is_foreign,
    line_fault,
    parse_hello,
    parse_mail,
    parse_plain_envelope,
    parse_rcpt,
)
from gwrelay.smtp.content import ContentReader

#: Content is handed over once this much of it has come.
PIECE_BYTES = 256 * 1024


class Policy(NamedTuple):
    """What one listener allows; the same object serves all its sessions."""

    hostname: str
    #: Bytes of one content; advertised as SIZE.
    max_message_size: int
    #: RFC 5321 4.5.3.1.8 asks for at least 100.
    max_recipients: int = 1000
    #: Received fields a content may bring; RFC 5321 6.3 asks for at least 100.
    max_hops: int = 100
    #: 5xx replies a client may collect without bringing a message (Postfix: 20).
    max_errors: int = 20
    #: NOOP, RSET, VRFY, HELP and EHLO without bringing a message (Postfix: 100).
    max_junk: int = 100
    #: There is a certificate: STARTTLS can be obeyed.
    offers_tls: bool = False


class Piece(NamedTuple):
    """Part of a content that is too large to hold, at least PIECE_BYTES of it."""

    content: bytes


class Submission(NamedTuple):
    """A whole message has come: `content` is what follows its Pieces, or all of it.

    Dots are unstuffed and every line ends in CRLF.  The session waits for answer().
    """

    envelope: Envelope
    content: bytes


class Discard(NamedTuple):
    """What came as Piece of the present message is void: it is refused."""


Event = Piece | Submission | Discard

# States.  In the first five the session reads command lines; _TABLE has a column for each.
# ASTRAY: the client pipelined bytes behind a DATA or BDAT that was refused, so what comes
# may be content, and content must not be obeyed.  HANDSHAKE: nothing is SMTP until secured().
START, READY, MAIL, RCPT, ASTRAY, CONTENT, ANSWER, HANDSHAKE, CLOSED = range(9)

_NO_MAIL = MailCommand("")

# The same few replies are said over and over.
_encode = lru_cache(maxsize=128)(Reply.encode)

_ALL_OK = b"".join(
    map(Reply.encode, (answers.SENDER_OK, answers.RECIPIENT_OK, answers.GO_AHEAD)),
)

#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__


class Session:
    """One client's session.  `may_relay` is what its address allows (not its mail).

    `intake` is asked at each MAIL; the Reply it returns, if any, refuses the message.
    """

    def __init__(
        self, policy: Policy, *, may_relay: bool, intake: Callable[[], Reply | None]
    ) -> None:
        self._policy = policy
        self._may_relay = may_relay
        self._intake = intake
        #: The name the client gave itself; "" before EHLO or HELO.
        self.helo = ""
        self._with = "SMTP"
        self._is_secure = False
        self._state = START
        # What was received and not yet read; commands are read from offset _at.
        self._buffer = b""
        self._at = 0
        self._output: list[bytes] = []
        self._events: list[Event] = []
        self._errors = 0
        self._junk = 0
        self._mail = _NO_MAIL
        self._recipients: list[Recipient] = []
        self._content = ContentReader(policy.max_message_size, policy.max_hops)
        # Whether the caller holds Pieces of the present content.
        self._in_pieces = False

    @property
    def protocol(self) -> str:
        """The word after "with" in the Received field (RFC 3848, RFC 6531 4.3)."""
        word = "UTF8SMTP" if self._mail.smtputf8 else self._with
        # There is no word for a HELO under TLS.
        return f"{word}S" if self._is_secure and word != "SMTP" else word

    @property
    def closing(self) -> bool:
        """Send output() and close: nothing that still comes will be read."""
        return self._state == CLOSED

    @property
    def in_content(self) -> bool:
        """The client is sending content: other time limits hold than between commands."""
        return self._state == CONTENT

    @property
    def awaits_tls(self) -> bool:
        """Once output() is sent, all bytes are TLS's until secured()."""
        return self._state == HANDSHAKE

    @property
    def idle(self) -> bool:
        """No transaction is open: a 421 now costs nobody anything."""
        return self._state in (START, READY, ASTRAY, HANDSHAKE, CLOSED)

    def greet(self) -> None:
        self._say(Reply(220, "", f"{self._policy.hostname} ESMTP"))

    def secured(self) -> None:
        """What is received and said from now on is under TLS.

        The client begins anew: nothing that it said in the clear counts, since anybody may have
        said it (RFC 3207 4.2); but its errors stay counted.
        """
        if self._state != CLOSED:
            self._is_secure = True
            self.helo = ""
            self._with = "SMTP"
            self._reset()
            self._state = START

    def give_up(self, reply: Reply) -> None:
        """End the session from our side: `reply` (a 421), then close.  Void once closing.

        While a Submission waits for its answer, `reply` is taken for it: whoever knows that
        the message is safe says so with answer() first.  A content that has not come to
        its end is void, and its Pieces with it: no Discard is given out for them.
        """
        if self._state != CLOSED:
            self._say(reply)
            self._close()

    def output(self) -> bytes:
        """Take what must be sent now."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def receive(self, chunk: bytes) -> list[Event]:
        """Read what the client sent, up to and including a Submission.

        What follows a Submission is kept until answer(), so the caller should not read
        more from the client before.
        """
        if self._state >= HANDSHAKE:
            return []
        self._buffer = self._buffer + chunk if self._buffer else chunk
        return self._read_on()

    def answer(self, reply: Reply) -> list[Event]:
        """The reply to the final dot of the last Submission; then reads what was kept."""
        if self._state != ANSWER:
            return []
        if reply.is_positive:
            self._errors = self._junk = 0
        self._reset()
        self._output.append(reply.encode())
        if reply.code == 421:
            self._close()
        return self._read_on()

    def _read_on(self) -> list[Event]:
        while self._state <= CONTENT:
            progress = self._read_content() if self._state == CONTENT else self._read_commands()
            if not progress:
                break
        events, self._events = self._events, []
        return events

    # Command lines.

    def _read_commands(self) -> bool:
        """Obey every whole line in the buffer.  True if there is something else to do now."""
        if self._state == READY and self._takes_plain_envelope():
            return False
        while self._state < CONTENT:
            end = self._buffer.find(b"\r\n", self._at)
            if end < 0:
                self._check_unfinished_line()
                break
            line = self._buffer[self._at : end]
            self._at = end + 2
            self._obey(line)
        self._buffer = self._buffer[self._at :]
        self._at = 0
        return self._state == CONTENT

    def _takes_plain_envelope(self) -> bool:
        """Obey MAIL, RCPT and DATA at once, if they are all there is in the buffer, plain and
        welcome, as they nearly always are: in 2.8 microseconds, where line by line takes 8.1.

        If not, nothing has happened, and line by line the client learns why.
        """
        plain = parse_plain_envelope(self._buffer)
        if plain is None or not self._may_relay or not self._policy.max_recipients:
            return False
        mail, recipient = plain
        if mail.size_bytes > self._policy.max_message_size or self._intake() is not None:
            return False
        self._buffer = b""
        self._mail = mail
        self._recipients = [recipient]
        self._begin_content()
        self._output.append(_ALL_OK)
        return True

    def _obey(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        row = self._TABLE.get(verb)
        fault = line_fault(line, verb)
        if row is None and is_foreign(verb):
            self.give_up(answers.NOT_SMTP)
        elif len(line) > MAX_SANE_LINE_BYTES:
            self.give_up(answers.LINE_TOO_LONG)
        elif fault is not None:
            self._refuse(fault)
        elif row is None:
            self._refuse(answers.NOT_OFFERED if verb in NOT_OFFERED_VERBS else answers.UNKNOWN)
        else:
            step = row[self._state]
            if isinstance(step, Reply):
                self._refuse(step)
            else:
                step(self, argument.strip(b" \t"))
        if verb in (b"DATA", b"BDAT") and self._state < CONTENT:
            self._mistrust_what_follows()

    def _check_unfinished_line(self) -> None:
        """Close on what can be seen to be no command before its line has ended."""
        unfinished_bytes = len(self._buffer) - self._at
        if unfinished_bytes and is_binary(self._buffer[self._at : self._at + 1]):
            # A TLS hello or a PROXY header may never bring the CRLF we would wait for.
            self.give_up(answers.NOT_SMTP)
        # One more, since the CR of the line's end may be there already.
        elif unfinished_bytes > MAX_SANE_LINE_BYTES + 1:
            self._obey(self._buffer[self._at :])

    def _mistrust_what_follows(self) -> None:
        """No client may send on before the reply to DATA (RFC 2920 3.1); has this one?"""
        if len(self._buffer) > self._at:
            self._reset()
            self._state = ASTRAY

    def _ehlo(self, argument: bytes) -> None:
        self._hello(
            argument,
            "ESMTP",
            answers.ehlo(
                self._policy.hostname,
                self._policy.max_message_size,
                starttls=self._policy.offers_tls and not self._is_secure,
            ),
        )

    def _helo(self, argument: bytes) -> None:
        self._hello(argument, "SMTP", Reply(250, "", self._policy.hostname))

    def _hello(self, argument: bytes, protocol: str, welcome: Reply) -> None:
        # RFC 5321 4.1.4: a HELO that is refused changes nothing, one that is taken resets.
        try:
            self.helo = parse_hello(argument)
        except CommandError as error:
            self._refuse(error.reply)
            return
        self._with = protocol
        self._reset()
        self._without_mail(welcome)

    def _mail_from(self, argument: bytes) -> None:
        try:
            mail = parse_mail(argument)
        except (AddressError, CommandError) as error:
            self._refuse(error.reply)
            return
        if mail.size_bytes > self._policy.max_message_size:
            self._refuse(answers.TOO_LARGE)
            return
        refusal = self._intake()
        if refusal is not None:
            self._without_mail(refusal)
            return
        self._mail = mail
        self._state = MAIL
        self._say(answers.SENDER_OK)

    def _rcpt(self, argument: bytes) -> None:
        try:
            recipient = parse_rcpt(
                argument, smtputf8=self._mail.smtputf8, local_domain=self._policy.hostname
            )
        except (AddressError, CommandError) as error:
            self._refuse(error.reply)
            return
        if not self._may_relay:
            self._refuse(answers.NO_RELAY)
        elif len(self._recipients) >= self._policy.max_recipients:
            self._refuse(answers.TOO_MANY_RECIPIENTS)
        else:
            self._recipients.append(recipient)
            self._state = RCPT
            self._say(answers.RECIPIENT_OK)

    def _data(self, argument: bytes) -> None:
        if argument:
            self._refuse(answers.NO_ARGUMENT)
            return
        self._begin_content()
        self._say(answers.GO_AHEAD)

    def _begin_content(self) -> None:
        self._content = ContentReader(self._policy.max_message_size, self._policy.max_hops)
        self._in_pieces = False
        self._state = CONTENT

    def _rset(self, argument: bytes) -> None:
        if argument:
            self._refuse(answers.NO_ARGUMENT)
            return
        if self._state != START:
            self._reset()
        self._without_mail(answers.OK)

    def _starttls(self, argument: bytes) -> None:
        if not self._policy.offers_tls:
            self._refuse(answers.NOT_OFFERED)
        elif self._is_secure:
            self._refuse(answers.UNDER_TLS)
        elif self._state == START:
            self._refuse(HELLO_FIRST)
        elif self._state != READY:
            self._refuse(NESTED_MAIL)
        elif argument:
            self._refuse(answers.NO_ARGUMENT)
        else:
            self._say(answers.GO_AHEAD_WITH_TLS)
            self._state = HANDSHAKE
            # What came along behind is not from under TLS, whoever sent it (CVE-2011-0411).
            self._buffer = b""
            self._at = 0

    def _noop(self, argument: bytes) -> None:
        self._without_mail(answers.OK)

    def _vrfy(self, argument: bytes) -> None:
        if argument:
            self._without_mail(answers.CANNOT_VERIFY)
        else:
            self._refuse(answers.ARGUMENT_MISSING)

    def _help(self, argument: bytes) -> None:
        self._without_mail(answers.HELP)

    def _quit(self, argument: bytes) -> None:
        if argument:
            self._refuse(answers.NO_ARGUMENT)
        else:
            self.give_up(answers.BYE)

    # What each command does, or is told, in each state.
    # fmt: off
    _TABLE: ClassVar[dict[bytes, tuple[Callable[["Session", bytes], None] | Reply, ...]]] = {
        #          START        READY       MAIL           RCPT         ASTRAY
        b"EHLO": (_ehlo,       _ehlo,      _ehlo,         _ehlo,       GONE_ASTRAY),
        b"HELO": (_helo,       _helo,      _helo,         _helo,       GONE_ASTRAY),
        b"MAIL": (HELLO_FIRST, _mail_from, NESTED_MAIL,   NESTED_MAIL, GONE_ASTRAY),
        b"RCPT": (HELLO_FIRST, MAIL_FIRST, _rcpt,         _rcpt,       GONE_ASTRAY),
        b"DATA": (HELLO_FIRST, MAIL_FIRST, NO_RECIPIENTS, _data,       GONE_ASTRAY),
        b"RSET": (_rset,       _rset,      _rset,         _rset,       GONE_ASTRAY),
        b"NOOP": (_noop,       _noop,      _noop,         _noop,       GONE_ASTRAY),
        b"VRFY": (_vrfy,       _vrfy,      _vrfy,         _vrfy,       GONE_ASTRAY),
        b"HELP": (_help,       _help,      _help,         _help,       GONE_ASTRAY),
        b"QUIT": (_quit,       _quit,      _quit,         _quit,       _quit),
        b"STARTTLS": (_starttls, _starttls, _starttls,    _starttls,   GONE_ASTRAY),
    }
    # fmt: on

    # Content.

    def _read_content(self) -> bool:
        """Read content from the buffer.  True if its end has come and commands may follow."""
        chunk, self._buffer = self._buffer, b""
        if not chunk:
            return False
        content = self._content
        rest = content.feed(chunk)
        refusal = content.refusal
        if refusal is not None and self._in_pieces:
            self._in_pieces = False
            self._events.append(Discard())
        if content.size_bytes > 2 * self._policy.max_message_size:
            self.give_up(answers.TOO_LARGE)
        elif rest is not None:
            self._buffer = rest
            self._end_content(refusal)
            return True
        elif content.held_bytes >= PIECE_BYTES:
            self._in_pieces = True
            self._events.append(Piece(content.take()))
        return False

    def _end_content(self, refusal: Reply | None) -> None:
        if refusal is not None:
            self._reset()
            self._refuse(refusal)
            return
        self._state = ANSWER
        mail = self._mail
        is_ascii = self._content.is_ascii
        # What it is, not what was declared: nothing is gained by demanding 8BITMIME or
        # SMTPUTF8 of the next hop for ASCII, and undeclared 8-bit content still needs it.
        body = "7BIT" if is_ascii else "8BITMIME"
        smtputf8 = mail.smtputf8 and not (is_ascii and self._is_ascii_envelope())
        recipients = tuple(self._recipients)
        fields = mail.reverse_path, recipients, body, smtputf8, mail.ret, mail.envid
        submission = _new(Envelope, fields), self._content.take()
        self._events.append(_new(Submission, submission))

    def _is_ascii_envelope(self) -> bool:
        named = [self._mail.reverse_path]
        for recipient in self._recipients:
            named += recipient.address, recipient.orcpt
        return all(map(str.isascii, named))

    # What all of them do.

    def _reset(self) -> None:
        """No transaction: RSET, EHLO (RFC 5321 4.1.4), and after each message."""
        self._mail = _NO_MAIL
        self._recipients = []
        self._state = READY

    def _close(self) -> None:
        self._state = CLOSED
        self._buffer = b""
        self._at = 0
        self._content.take()

    def _say(self, reply: Reply) -> None:
        self._output.append(_encode(reply))

    def _refuse(self, reply: Reply) -> None:
        """Say no; every 5xx counts towards the limit, a 4xx is not the client's fault."""
        if reply.is_permanent:
            self._errors += 1
        if self._errors > self._policy.max_errors:
            self.give_up(answers.TOO_MANY_ERRORS)
        else:
            self._say(reply)

    def _without_mail(self, reply: Reply) -> None:
        """Answer what brings no mail and is no error either; it must not go on for ever."""
        self._junk += 1
        if self._junk > self._policy.max_junk:
            self.give_up(answers.TOO_MUCH_JUNK)
        elif reply.code == 421:
            self.give_up(reply)
        else:
            self._say(reply)

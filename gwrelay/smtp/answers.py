"""What the accepting side says (RFC 5321 4.2, with the statuses of RFC 3463).

Nothing a client sent is ever repeated in a reply.
"""

from functools import lru_cache

from gwrelay.message.reply import Reply

OK = Reply(250, "2.0.0", "ok")
SENDER_OK = Reply(250, "2.1.0", "sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "recipient ok")
# 3xx replies have no status (RFC 2034 4).
GO_AHEAD = Reply(354, "", "end content with <CRLF>.<CRLF>")
CANNOT_VERIFY = Reply(252, "2.0.0", "not verified, but mail for it is tried")
HELP = Reply(214, "2.0.0", "RFC 5321: EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT")
BYE = Reply(221, "2.0.0", "bye")
GO_AHEAD_WITH_TLS = Reply(220, "2.0.0", "ready for TLS")

# Lines that are no command.
UNKNOWN = Reply(500, "5.5.1", "command not known")
NOT_OFFERED = Reply(502, "5.5.1", "command not offered")
BARE_NEWLINE = Reply(500, "5.5.2", "bare CR or LF: lines must end in CRLF")
LINE_TOO_LONG = Reply(500, "5.5.6", "line too long")
NOT_SMTP = Reply(554, "5.5.1", "this is SMTP: closing")

# Commands that are wrong here, or incomplete.
HELLO_FIRST = Reply(503, "5.5.1", "say EHLO or HELO first")
NESTED_MAIL = Reply(503, "5.5.1", "a transaction is already open")
MAIL_FIRST = Reply(503, "5.5.1", "need MAIL first")
NO_RECIPIENTS = Reply(554, "5.5.1", "no valid recipients")
GONE_ASTRAY = Reply(503, "5.5.1", "sent before the reply to DATA or BDAT: only QUIT now")
UNDER_TLS = Reply(503, "5.5.1", "TLS is on already")
NO_ARGUMENT = Reply(501, "5.5.4", "this command takes no argument")
ARGUMENT_MISSING = Reply(501, "5.5.4", "this command needs an argument")

# Limits.
TOO_LARGE = Reply(552, "5.3.4", "message too large")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors")
TOO_MUCH_JUNK = Reply(421, "4.7.0", "too many commands without mail")
NO_RELAY = Reply(550, "5.7.1", "relaying denied")

# Content that is refused after its end.
BARE_NEWLINE_IN_CONTENT = Reply(550, "5.6.0", "bare CR or LF: lines must end in CRLF")
TOO_MANY_HOPS = Reply(554, "5.4.6", "too many hops: mail loop")


@lru_cache(maxsize=16)
def ehlo(hostname: str, max_message_size: int, *, starttls: bool) -> Reply:
    """Without statuses, like every reply to EHLO and HELO (RFC 2034 4)."""
    lines = [
        hostname,
        "PIPELINING",
        f"SIZE {max_message_size}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "DSN",
    ]
    if starttls:
        lines.append("STARTTLS")
    return Reply(250, "", "\n".join(lines))

"""Why a destination has no exchange to offer, each with the reply its mail gets.

The choice between 4 and 5 is made here and nowhere else: what a name server said for
certain is permanent, everything that another try could change is not.  Texts name the
domain in ASCII, since they end up in replies, logs and DSNs.
"""

from gwrelay.errors import GatewayError
from gwrelay.message.reply import Reply


def printable(name: str) -> str:
    """`name` fit for a reply: ASCII, escaped, and no longer than a domain may be."""
    return ascii(name)[1:-1][:255]


class ResolutionError(GatewayError):
    """No exchange; `reply.is_permanent` decides whether mail bounces or waits.

    `ttl_s` is how long name servers let us remember that (seconds); None if nothing was
    learnt because a lookup failed, so that older knowledge is better than this.
    """

    def __init__(self, reply: Reply, ttl_s: float | None) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.ttl_s = ttl_s


class LookupFailed(ResolutionError):
    """No name server gave a usable answer: SERVFAIL, REFUSED, timeout, garbage."""

    def __init__(self, name: str, reason: str) -> None:
        reply = Reply(451, "4.4.3", f"cannot look up {printable(name)}: {reason}")
        super().__init__(reply, None)


class NoSuchDomain(ResolutionError):
    """The domain does not exist (NXDOMAIN), or no domain can be written like that."""

    def __init__(
        self, domain: str, ttl_s: float, reason: str = "does not exist", *, defers: bool = False
    ) -> None:
        code, status = (450, "4.1.2") if defers else (550, "5.1.2")
        super().__init__(Reply(code, status, f"domain {printable(domain)} {reason}"), ttl_s)


class NullMX(ResolutionError):
    """The domain says that it takes no mail (RFC 7505 3)."""

    def __init__(self, domain: str, ttl_s: float) -> None:
        text = f"domain {printable(domain)} accepts no mail (null MX)"
        super().__init__(Reply(556, "5.1.10", text), ttl_s)


class NoAddress(ResolutionError):
    """No exchange has an address we may use.  Permanent unless a lookup failed on the way."""

    def __init__(
        self, domain: str, ttl_s: float | None, reason: str, *, defers: bool = False
    ) -> None:
        code, status = (451, "4.4.4") if defers else (550, "5.4.4")
        super().__init__(Reply(code, status, f"{printable(domain)}: {reason}"), ttl_s)


class Loop(ResolutionError):
    """The best exchange for the domain is ourselves (RFC 5321 5.1)."""

    def __init__(self, domain: str, ttl_s: float) -> None:
        text = f"mail for {printable(domain)} loops back to myself"
        super().__init__(Reply(550, "5.4.6", text), ttl_s)


class CanonicalNameLoop(ResolutionError):
    """Following CNAME records led back to a name already seen.  Defers."""

    def __init__(self, name: str, ttl_s: float) -> None:
        text = f"CNAME records of {printable(name)} form a loop"
        super().__init__(Reply(451, "4.4.3", text), ttl_s)


class CanonicalNameChainTooLong(ResolutionError):
    """More CNAME records in a row than may be followed.  Defers."""

    def __init__(self, name: str, ttl_s: float, limit: int) -> None:
        text = f"more than {limit} CNAME records in a row from {printable(name)}"
        super().__init__(Reply(451, "4.4.3", text), ttl_s)

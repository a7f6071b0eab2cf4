"""One question to the name servers, one answer with its TTL.  What mail is, is not known here.

UDP with EDNS (RFC 6891), TCP when the answer is truncated (RFC 7766), the next name server
when one is silent, lame or failing.  The query id is drawn and the source port left to the kernel
(RFC 5452); answers that do not belong to the question are ignored until time is up.  A plain
answer is read by packets.py, any other by dnspython.
"""

import re
import socket
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.inet
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver

from gwrelay.errors import ConfigError
from gwrelay.mx import packets
from gwrelay.mx.exchanges import Answer, LookupFailed, Question
from gwrelay.mx.packets import text_of

_MOST_BYTES = 65535

#: Seconds a name server that was silent or refused to answer is asked last.
LAME_S = 15.0

_IN = dns.rdataclass.IN

#: RCODEs that old servers answer EDNS with; without EDNS they may know the answer.
_NO_EDNS = {dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS}


class _Server:
    """One name server, and until when (monotonic seconds) it is asked after the others."""

    __slots__ = ("address", "family", "host", "lame_until", "port")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.family = dns.inet.af_for_address(host)
        #: As a socket of that family says who sent something.
        self.address = dns.inet.low_level_address_tuple((host, port), self.family)
        self.port = port
        self.lame_until = 0.0


class _Useless(Exception):
    """This server has no usable answer to this question.  Never leaves this file.

    `lame`: nor to others, it seems.  `silent`: there was none at all; a packet may be lost.
    """

    def __init__(self, reason: str, *, lame: bool = False, silent: bool = False) -> None:
        super().__init__(reason)
        self.lame = lame
        self.silent = silent


class DNSResolver:
    """Asks `servers` ("ADDR", "ADDR:PORT" or "[ADDR]:PORT") in turn; none given: resolv.conf's.

    `timeout_s` bounds one question over all servers and tries.  With several servers given,
    NXDOMAIN needs the word of two: one broken server must not make mail bounce.
    """

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = [_server(text) for text in servers] or _system_servers()
        self._confirm_nxdomain = len(servers) > 1
        self._timeout_s = timeout_s
        self._clock = clock
        #: Questions put to a name server, tries and TCP included.
        self.queries = 0

    def ask(self, question: Question) -> Answer:
        """Raises LookupFailed if no server answers in time, or none usefully."""
        try:
            asked = packets.query(question)
        except dns.exception.DNSException as error:
            raise LookupFailed(question.name, f"no domain name ({error})") from error
        return self._ask(question, asked)

    def _ask(self, question: Question, asked: bytes) -> Answer:
        """Each server, then the silent ones again while there is time: packets get lost."""
        deadline = self._clock() + self._timeout_s
        missing: Answer | None = None
        reason = "no answer in time"
        waiting = self._in_order()
        while waiting and self._clock() < deadline:
            server = waiting.pop(0)
            try:
                answer = self._ask_one(server, asked, deadline)
            except _Useless as useless:
                reason = f"{useless} ({server.host})"
                if useless.lame or useless.silent:
                    server.lame_until = self._clock() + LAME_S
                if useless.silent:
                    waiting.append(server)
                continue
            server.lame_until = 0.0
            if answer.found != "nxdomain" or not self._confirm_nxdomain or missing:
                return answer
            missing = answer
        if missing:
            reason = f"a second name server does not confirm that it does not exist, {reason}"
        raise LookupFailed(question.name, f"{question.kind} {reason}")

    def _in_order(self) -> list[_Server]:
        now = self._clock()
        return sorted(self._servers, key=lambda server: server.lame_until > now)

    def _ask_one(self, server: _Server, asked: bytes, deadline: float) -> Answer:
        """Raises _Useless."""
        try:
            response = self._send(server, asked, deadline)
            if not isinstance(response, Answer) and response.rcode() in _NO_EDNS:
                response = self._send(server, packets.without_edns(asked), deadline)
        except (dns.exception.Timeout, TimeoutError):
            raise _Useless("no answer in time", silent=True) from None
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise _Useless(str(error) or type(error).__name__, lame=True) from error
        if isinstance(response, Answer):
            return response
        rcode = response.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise _Useless(dns.rcode.to_text(rcode), lame=rcode == dns.rcode.REFUSED)
        answer = read(response)
        if answer is None:
            raise _Useless("lame name server", lame=True)
        return answer

    def _send(self, server: _Server, asked: bytes, deadline: float) -> Answer | dns.message.Message:
        """One server's plain answer, or its response whatever else it is."""
        seconds = self._try_s(deadline)
        until = time.time() + seconds
        with socket.socket(server.family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(seconds)
            sock.sendto(asked, server.address)
            # Left where it is: what is not plain, dnspython takes, or goes on waiting.
            wire, sender = sock.recvfrom(_MOST_BYTES, socket.MSG_PEEK)
            answer = packets.read(wire, asked) if sender == server.address else None
            if answer is not None:
                return answer
            query = dns.message.from_wire(asked)
            sock.setblocking(False)
            response: dns.message.Message
            try:
                response, _ = dns.query.receive_udp(
                    sock, server.address, until,
                    ignore_unexpected=True, ignore_errors=True, raise_on_truncation=True,
                    query=query,
                )  # fmt: skip
            except dns.message.Truncated:
                return dns.query.tcp(query, server.host, self._try_s(deadline), server.port)
            return response

    def _try_s(self, deadline: float) -> float:
        """Seconds for one try, so that each server gets one and a lost packet another."""
        self.queries += 1
        left_s = max(deadline - self._clock(), 0.0)
        return min(left_s, self._timeout_s / (len(self._servers) + 1))


def read(response: dns.message.Message) -> Answer | None:
    """What a NOERROR or NXDOMAIN response says; None if its server knows nothing of the name.

    Follows the CNAME records inside the answer; a loop ends with the repeated name as the last
    alias.  Records that do not belong to the chain are ignored.
    """
    asked = response.question[0]
    aliases: list[dns.name.Name] = []
    ttls: list[int] = []
    name = asked.name
    while True:
        records = _of(response, name, asked.rdtype)
        if records is not None:
            return _records(asked.rdtype, records, [*ttls, records.ttl], aliases)
        cname = _of(response, name, dns.rdatatype.CNAME)
        if cname is None:
            break
        ttls.append(cname.ttl)
        target = cname[0].target
        looped = target in aliases or target == asked.name
        aliases.append(target)
        if looped:
            return Answer("alias", min(ttls), aliases=_texts(aliases))
        name = target
    return _nothing(response, ttls, aliases)


def _of(
    response: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> "dns.rrset.RRset | None":
    """Message.get_rrset() hashes names: slower than a look at the one or two there are."""
    for records in response.answer:
        if records.rdtype == rdtype and records.name == name and records.rdclass == _IN:
            return records
    return None


def _records(
    rdtype: dns.rdatatype.RdataType,
    records: "dns.rrset.RRset",
    ttls: list[int],
    aliases: list[dns.name.Name],
) -> Answer:
    if rdtype == dns.rdatatype.MX:
        mx = tuple((record.preference, text_of(record.exchange)) for record in records)
        return Answer("records", min(ttls), mx=mx, aliases=_texts(aliases))
    addresses = tuple(record.address for record in records)
    if rdtype == dns.rdatatype.AAAA:
        addresses = tuple(str(ip_address(address)) for address in addresses)
    return Answer("records", min(ttls), addresses=addresses, aliases=_texts(aliases))


def _nothing(
    response: dns.message.Message, ttls: list[int], aliases: list[dns.name.Name]
) -> Answer | None:
    """Tell "it does not exist", "not with this type", "ask further" and "how should I know"."""
    soa = next((s for s in response.authority if s.rdtype == dns.rdatatype.SOA), None)
    if soa is not None:
        ttls = [*ttls, soa.ttl, soa[0].minimum]  # RFC 2308 5
    elif not aliases or response.rcode() == dns.rcode.NXDOMAIN:
        ttls = [0]  # without SOA a "no" is not to be remembered (RFC 2308 5)
    if response.rcode() == dns.rcode.NXDOMAIN:
        return Answer("nxdomain", min(ttls), aliases=_texts(aliases))
    if soa is not None:
        return Answer("nodata", min(ttls), aliases=_texts(aliases))
    if aliases:
        return Answer("alias", min(ttls), aliases=_texts(aliases))
    referral = any(s.rdtype == dns.rdatatype.NS for s in response.authority)
    competent = response.flags & (dns.flags.AA | dns.flags.RA)
    return None if referral or not competent else Answer("nodata", 0)


def _texts(names: list[dns.name.Name]) -> tuple[str, ...]:
    return tuple(map(text_of, names))


_SERVER = re.compile(r"\[(?P<six>[^]]+)\](:(?P<port6>\d+))?|(?P<four>[^:]+)(:(?P<port>\d+))?")


def _server(text: str) -> _Server:
    """Raises ConfigError unless `text` is an address with or without a port."""
    match = _SERVER.fullmatch(text)
    host, port = text, "53"
    if match is not None:
        host = match["six"] or match["four"]
        port = match["port6"] or match["port"] or "53"
    try:
        address = str(ip_address(host))
    except ValueError:
        raise ConfigError(
            f"resolver: {text!r} is no address; write 192.0.2.53, 192.0.2.53:5353 or [::1]:53"
        ) from None
    if not 0 < int(port) < 65536:
        raise ConfigError(f"resolver: {text!r} has no port between 1 and 65535")
    return _Server(address, int(port))


def _system_servers() -> list[_Server]:
    try:
        configured = dns.resolver.Resolver()
    except dns.exception.DNSException as error:
        raise ConfigError(f"resolver: none given, and {error}") from error
    return [_Server(str(host), configured.port) for host in configured.nameservers]

"""A tiny name server: answers from a table, NXDOMAIN with an SOA for the rest (RFC 2308).

`answer` decides, `NameServer` listens on UDP and TCP.  For destinations that exist on
loopback only; it knows no zones, no delegation, no DNSSEC.
"""

import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from gevent.server import DatagramServer, StreamServer

#: name in lower case without a trailing dot → type → rdata as in a zone file, with names
#: in full and a trailing dot: {"d.example": {"MX": ["10 mx.d.example."]}}.
Table = Mapping[str, Mapping[str, list[str]]]

#: Seconds, for every record and for the lack of one, unless something else is wanted.
TTL_S = 60
_SOA = "ns.invalid. hostmaster.invalid. 1 3600 600 86400 {}"
#: CNAMEs followed for one question; a loop in the table ends here.
_CHAIN_LIMIT = 8
#: What fits a UDP answer to a client without EDNS (RFC 1035 4.2.1).
_PLAIN_UDP_BYTES = 512


class NameServer:
    """Serves `table` on one address, UDP and TCP on the same port.

    The table may be changed while it runs.  `questions` counts what was asked, as
    (name, type).
    """

    def __init__(
        self, table: Table, address: str = "127.0.0.1", port: int = 0, *, ttl_s: int = TTL_S
    ) -> None:
        self.table = table
        self._ttl_s = ttl_s
        self.questions: Counter[tuple[str, str]] = Counter()
        self._stream = StreamServer((address, port), self._converse)
        self._stream.start()
        self.port = int(self._stream.server_port)
        self._datagrams = DatagramServer((address, self.port), self._reply)
        self._datagrams.start()

    def close(self) -> None:
        self._datagrams.stop(timeout=0)
        self._stream.stop(timeout=0)

    def _reply(self, datagram: bytes, client: tuple[str, int]) -> None:
        response = self._response(datagram, udp=True)
        if response is not None:
            self._datagrams.sendto(response, client)

    def _converse(self, connection: socket.socket, _: object) -> None:
        with connection, connection.makefile("rb") as stream:
            while True:
                prefix = stream.read(2)
                if len(prefix) < 2:
                    return
                response = self._response(stream.read(*struct.unpack("!H", prefix)), udp=False)
                if response is None:
                    return
                connection.sendall(struct.pack("!H", len(response)) + response)

    def _response(self, wire: bytes, *, udp: bool) -> bytes | None:
        """None for what is no DNS message: such a client is left to its time-out."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        for question in query.question:
            key = question.name.to_text(omit_final_dot=True).lower()
            self.questions[key, dns.rdatatype.to_text(question.rdtype)] += 1
        response = answer(query, self.table, self._ttl_s)
        limit = max(_PLAIN_UDP_BYTES, query.payload) if udp else 65535
        return response.to_wire(max_size=limit, prefer_truncation=True)


def one_exchange_each(addresses: Mapping[str, str]) -> Table:
    """`addresses`: domain → the only address of its only exchange."""
    return {domain: {"MX": [f"10 mx.{domain}."]} for domain in addresses} | {
        f"mx.{domain}": {"A": [address]} for domain, address in addresses.items()
    }


def answer(query: dns.message.Message, table: Table, ttl_s: int = TTL_S) -> dns.message.Message:
    """What `table` says to `query`: records, no such type, or no such name."""
    response = dns.message.make_response(query, recursion_available=True)
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        response.set_rcode(dns.rcode.NOTIMP)
        return response
    question = query.question[0]
    response.answer.extend(_chain(question.name, question.rdtype, table, ttl_s))
    last = response.answer[-1] if response.answer else None
    if last is None or last.rdtype != question.rdtype:
        response.authority.append(_rrset(dns.name.root, "SOA", [_SOA.format(ttl_s)], ttl_s))
        missing = question.name if last is None else last[0].target
        if _key(missing) not in table:
            response.set_rcode(dns.rcode.NXDOMAIN)
    return response


def _chain(
    name: dns.name.Name, rdtype: dns.rdatatype.RdataType, table: Table, ttl_s: int
) -> Iterator[dns.rrset.RRset]:
    """The records of `name`, with the CNAMEs on the way to them."""
    wanted = dns.rdatatype.to_text(rdtype)
    for _ in range(_CHAIN_LIMIT):
        records = table.get(_key(name), {})
        if wanted in records:
            yield _rrset(name, wanted, records[wanted], ttl_s)
            return
        if "CNAME" not in records:
            return
        alias = _rrset(name, "CNAME", records["CNAME"], ttl_s)
        yield alias
        name = alias[0].target


def _key(name: dns.name.Name) -> str:
    return str(name.to_text(omit_final_dot=True)).lower()


def _rrset(name: dns.name.Name, rdtype: str, texts: list[str], ttl_s: int) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(name, ttl_s, dns.rdataclass.IN, rdtype, texts)

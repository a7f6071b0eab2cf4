"""A name server on loopback that answers from a table and misbehaves as told.

    with DNSServer({"example.com": {"MX": ["10 mx.example.com."]}}) as server:
        server.fault("example.com", "servfail", kind="MX")
        DNSResolver([server.address]).ask(...)

UDP and TCP on one port, in threads.  It plays a recursive server that knows one table and
nothing else: names in it exist, all others get NXDOMAIN with an SOA.
"""

import socketserver
import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

#: name -> type -> records as in a zone file, names absolute ("10 mx.example.com.").
Zone = Mapping[str, Mapping[str, Sequence[str]]]

Fault = Literal[
    "servfail",  # RCODE
    "refused",  # RCODE
    "formerr_to_edns",  # FORMERR, unless asked without EDNS
    "timeout",  # no answer at all
    "drop_first",  # no answer the first time
    "truncated",  # by UDP: TC and nothing else; by TCP: the answer
    "truncated_no_tcp",  # the same, but TCP connections are closed unanswered
    "garbage",  # bytes that are no DNS message
    "wrong_id",  # an answer to another query, with a forged record
    "spoof_first",  # first such a forged answer, then the true one
    "lame",  # a referral upwards: "ask the root"
    "empty",  # NOERROR, nothing in it and no SOA
]

_RCODES = {"servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED}


class DNSServer:
    """`ttl_s` of all records unless ttls[name] says otherwise; `negative_ttl_s` of the SOA.

    `follow` tells whether a CNAME is answered with what it leads to, as recursive servers do,
    or alone.
    """

    def __init__(
        self,
        zone: Zone,
        *,
        host: str = "127.0.0.1",
        ttl_s: int = 300,
        negative_ttl_s: int = 120,
        follow: bool = True,
    ) -> None:
        self.zone = self.parsed(zone)
        self.ttl_s = ttl_s
        self.ttls: dict[str, int] = {}
        self.negative_ttl_s = negative_ttl_s
        self.follow = follow
        #: (name, kind, "udp" or "tcp") of each question, in the order of arrival.
        self.questions: list[tuple[str, str, str]] = []
        #: The port each UDP question came from.
        self.client_ports: list[int] = []
        self._faults: dict[tuple[str, str], Fault] = {}
        self._dropped: set[tuple[str, str]] = set()
        self._udp, self._tcp = _bind(host, self)
        self.host = host
        self.port: int = self._udp.server_address[1]
        self._threads = [
            threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True)
            for s in (self._udp, self._tcp)
        ]

    @staticmethod
    def parsed(zone: Zone) -> dict[dns.name.Name, dict[str, Sequence[str]]]:
        """In the form of the attribute `zone`, for adding to it while the server runs."""
        return {dns.name.from_text(name): dict(types) for name, types in zone.items()}

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def fault(self, name: str, fault: Fault, kind: str = "*") -> None:
        """Misbehave when asked for `name` ("*": any name) and `kind` ("*": any type)."""
        self._faults[name.lower(), kind] = fault

    def heal(self) -> None:
        """No faults any more."""
        self._faults.clear()

    def asked(self, name: str, kind: str, transport: str = "udp") -> int:
        """How often."""
        return self.questions.count((name, kind, transport))

    def __enter__(self) -> "DNSServer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def respond(self, wire: bytes, transport: str) -> list[bytes]:
        """The datagrams, or messages of a TCP stream, that answer `wire`; maybe none."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind, transport))
        response = dns.message.make_response(query, recursion_available=True)
        fault = self._fault_for(name, kind)
        if fault in _RCODES:
            response.set_rcode(_RCODES[fault])
            return [response.to_wire()]
        if fault == "formerr_to_edns" and query.edns >= 0:
            response.set_rcode(dns.rcode.FORMERR)
            return [response.to_wire()]
        if fault == "timeout" or (fault == "drop_first" and self._first_time(name, kind)):
            return []
        if fault == "garbage":
            return [b"\x00garbage" * 3]
        if fault in ("truncated", "truncated_no_tcp"):
            if transport == "udp":
                response.flags |= dns.flags.TC
                return [response.to_wire()]
            if fault == "truncated_no_tcp":
                return []
        if fault == "empty":
            return [response.to_wire()]
        if fault == "lame":
            response.flags &= ~dns.flags.RA
            response.authority.append(dns.rrset.from_text(".", 3600, "IN", "NS", "a.root."))
            return [response.to_wire()]
        forged = []
        if fault in ("wrong_id", "spoof_first"):
            forged = [_forged(query)]
            if fault == "wrong_id":
                return forged
        self._answer(response, question.name, kind)
        whole = response.to_wire(max_size=65535)
        if transport == "udp" and len(whole) > max(query.payload, 512):
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            whole = short.to_wire()
        return [*forged, whole]

    def _fault_for(self, name: str, kind: str) -> Fault | None:
        for key in ((name, kind), (name, "*"), ("*", kind), ("*", "*")):
            if key in self._faults:
                return self._faults[key]
        return None

    def _first_time(self, name: str, kind: str) -> bool:
        first = (name, kind) not in self._dropped
        self._dropped.add((name, kind))
        return first

    def _answer(self, response: dns.message.Message, name: dns.name.Name, kind: str) -> None:
        seen = set()
        while True:
            types = self.zone.get(name)
            if types is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                break
            ttl_s = self.ttls.get(name.to_text(omit_final_dot=True).lower(), self.ttl_s)
            if kind in types:
                response.answer.append(dns.rrset.from_text(name, ttl_s, "IN", kind, *types[kind]))
                return
            if "CNAME" not in types:
                break
            cname = dns.rrset.from_text(name, ttl_s, "IN", "CNAME", *types["CNAME"])
            response.answer.append(cname)
            seen.add(name)
            name = cname[0].target
            if not self.follow or name in seen:
                return
        soa = f"ns.test. admin.test. 1 1800 900 604800 {self.negative_ttl_s}"
        response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))


def _forged(query: dns.message.Message) -> bytes:
    """What an attacker who cannot see the query id would send."""
    response = dns.message.make_response(query, recursion_available=True)
    response.id = (query.id + 1) % 65536
    owner = query.question[0].name
    response.answer.append(dns.rrset.from_text(owner, 300, "IN", "MX", "0 evil.test."))
    response.answer.append(dns.rrset.from_text(owner, 300, "IN", "A", "203.0.113.66"))
    return response.to_wire()


class _UDP(socketserver.ThreadingUDPServer):
    daemon_threads = True
    max_packet_size = 65535
    owner: DNSServer


class _TCP(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    owner: DNSServer


class _OneDatagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        self.server.owner.client_ports.append(self.client_address[1])
        for response in self.server.owner.respond(wire, "udp"):
            # The server may have been closed while the question was under way.
            with suppress(OSError):
                sock.sendto(response, self.client_address)


class _OneConnection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while len(head := self.rfile.read(2)) == 2:
            wire = self.rfile.read(struct.unpack("!H", head)[0])
            responses = self.server.owner.respond(wire, "tcp")
            if not responses:
                return
            for response in responses:
                self.wfile.write(struct.pack("!H", len(response)) + response)


def _bind(host: str, owner: DNSServer) -> tuple[_UDP, _TCP]:
    """One port for both; the kernel picks it for UDP, and TCP may find it taken."""
    for _ in range(50):
        udp = _UDP((host, 0), _OneDatagram)
        try:
            tcp = _TCP((host, udp.server_address[1]), _OneConnection)
        except OSError:
            udp.server_close()
            continue
        udp.owner = tcp.owner = owner
        return udp, tcp
    raise OSError(f"no port on {host} is free for both UDP and TCP")

"""The tiny name server: its decisions as a table, then over UDP and TCP."""

from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import gevent
import pytest
from gevent import socket

from gwrelay_bench.zone import NameServer, answer

TABLE = {
    "d.example": {"MX": ["10 mx.d.example.", "20 mx2.d.example."]},
    "mx.d.example": {"A": ["127.0.0.2"], "AAAA": ["::1"]},
    "alias.example": {"CNAME": ["d.example."]},
    "nowhere.example": {"CNAME": ["missing.example."]},
    "loop.example": {"CNAME": ["loop.example."]},
    "many.example": {"A": [f"127.0.{high}.{low}" for high in range(4) for low in range(1, 250)]},
}

ANSWERS = [
    ("d.example", "MX", "NOERROR", ["10 mx.d.example.", "20 mx2.d.example."]),
    ("D.Example", "MX", "NOERROR", ["10 mx.d.example.", "20 mx2.d.example."]),
    ("mx.d.example", "A", "NOERROR", ["127.0.0.2"]),
    ("mx.d.example", "AAAA", "NOERROR", ["::1"]),
    ("d.example", "A", "NOERROR", []),
    ("other.example", "MX", "NXDOMAIN", []),
    ("alias.example", "MX", "NOERROR", ["d.example.", "10 mx.d.example.", "20 mx2.d.example."]),
    ("alias.example", "CNAME", "NOERROR", ["d.example."]),
    ("nowhere.example", "A", "NXDOMAIN", ["missing.example."]),
]


def texts(response: dns.message.Message) -> list[str]:
    return [rdata.to_text() for rrset in response.answer for rdata in rrset]


@pytest.mark.parametrize(("name", "rdtype", "rcode", "expected"), ANSWERS)
def test_answers_follow_the_table(name: str, rdtype: str, rcode: str, expected: list[str]) -> None:
    response = answer(dns.message.make_query(name, rdtype), TABLE)
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert texts(response) == expected


@pytest.mark.parametrize("name", ["other.example", "d.example"])
def test_a_negative_answer_carries_an_soa(name: str) -> None:
    response = answer(dns.message.make_query(name, "A"), TABLE)
    assert [rrset.rdtype for rrset in response.authority] == [dns.rdatatype.SOA]


def test_a_cname_loop_ends() -> None:
    assert len(answer(dns.message.make_query("loop.example", "A"), TABLE).answer) >= 1


@pytest.fixture
def server() -> Iterator[NameServer]:
    names = NameServer(TABLE)
    yield names
    names.close()


def ask_udp(server: NameServer, wire: bytes) -> dns.message.Message:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(wire, ("127.0.0.1", server.port))
        return dns.message.from_wire(client.recv(65535))


def ask_tcp(server: NameServer, wire: bytes) -> dns.message.Message:
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(len(wire).to_bytes(2) + wire)
        stream = client.makefile("rb")
        return dns.message.from_wire(stream.read(int.from_bytes(stream.read(2))))


def test_udp_and_tcp_give_the_same_answer(server: NameServer) -> None:
    wire = dns.message.make_query("d.example", "MX").to_wire()
    assert sorted(texts(ask_udp(server, wire))) == ANSWERS[0][3]
    assert sorted(texts(ask_tcp(server, wire))) == ANSWERS[0][3]
    assert server.questions["d.example", "MX"] == 2


def test_an_answer_too_long_for_udp_is_truncated_and_whole_over_tcp(server: NameServer) -> None:
    wire = dns.message.make_query("many.example", "A").to_wire()
    assert ask_udp(server, wire).flags & dns.flags.TC
    assert len(texts(ask_tcp(server, wire))) == 4 * 249


def test_what_is_no_question_gets_no_answer_and_stops_nothing(server: NameServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"\0\1nonsense", ("127.0.0.1", server.port))
        gevent.sleep(0)
    wire = dns.message.make_query("mx.d.example", "A").to_wire()
    assert texts(ask_udp(server, wire)) == ["127.0.0.2"]

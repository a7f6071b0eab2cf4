"""`gwrelay bench dns`: a zone of made-up domains, and that it is answered from."""

import ipaddress

import dns.message
import dns.query
import dns.rcode

from gwrelay_bench.naming import zone_of
from support.benches import serving


def test_domains_share_exchanges_in_turn_and_each_exchange_has_an_address_of_its_own() -> None:
    zone = zone_of(
        ["a.example", "B.example", "c.example"], 2, 4, ipaddress.ip_network("127.6.0.0/24")
    )
    assert zone["a.example"] == {"MX": ["10 mx0.hosts.example.", "20 mx1.hosts.example."]}
    assert zone["b.example"] == {"MX": ["10 mx2.hosts.example.", "20 mx3.hosts.example."]}
    assert zone["c.example"] == zone["a.example"]
    assert [zone[f"mx{n}.hosts.example"] for n in range(4)] == [
        {"A": [f"127.6.0.{n + 1}"]} for n in range(4)
    ]


def test_one_address_is_that_of_all_exchanges() -> None:
    zone = zone_of(["a.example", "b.example"], 1, 2, ipaddress.ip_network("::1"))
    assert zone["mx0.hosts.example"] == zone["mx1.hosts.example"] == {"AAAA": ["::1"]}


def test_it_answers_and_counts_what_was_asked() -> None:
    with serving("dns", "--port", "0", "--domains", "3000", "--ttl", "7s") as (port, end):
        for name, kind, code in (
            ("d2999.example", "MX", dns.rcode.NOERROR),
            ("mx2999.hosts.example", "A", dns.rcode.NOERROR),
            ("d3000.example", "MX", dns.rcode.NXDOMAIN),
        ):
            question = dns.message.make_query(name, kind)
            answer = dns.query.udp(question, "127.0.0.1", port=port, timeout=5)
            assert answer.rcode() == code
            assert {rrset.ttl for rrset in answer.answer + answer.authority} == {7}
        found = end()
    assert found["settings"]["domains"] == 3000
    assert found["figures"] == {
        "questions": 3,
        "by_type": {"A": 1, "MX": 2},
        "names": 3,
        "unknown": 1,
    }

"""`gwrelay mx lookup` over a name server on loopback: the plan, and why each host is where it is.

The commands that ask a gateway are in tests/flow/test_mx_commands.py.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from gwrelay.cli import run
from support.dns_server import DNSServer

ZONE = {
    "d.example": {"MX": ["20 b.example.", "10 a.example."]},
    "a.example": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "b.example": {"A": ["192.0.2.2"]},
    "even.example": {"MX": ["10 a.example.", "10 b.example."]},
    "mixed.example": {
        "MX": ["5 gone.example.", "10 inner.example.", "15 us.example.", "20 b.example."]
    },
    "better.example": {"MX": ["5 a.example.", "15 us.example.", "20 b.example."]},
    "inner.example": {"A": ["127.0.0.5"]},
    "us.example": {"A": ["192.0.2.77"]},
    "half.example": {"MX": ["10 broken.example.", "20 b.example."]},
    "broken.example": {"A": ["192.0.2.9"]},
    "many.example": {"MX": ["10 crowd.example."]},
    "crowd.example": {"A": [f"192.0.2.{n}" for n in range(100, 110)]},
    "c1.example": {"CNAME": ["d.example."]},
    "null.example": {"MX": ["0 ."]},
}


@pytest.fixture
def names() -> Iterator[DNSServer]:
    with DNSServer(ZONE) as running:
        running.fault("broken.example", "servfail")
        yield running


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("GWRELAY_"):
            monkeypatch.delenv(name)


class Asker:
    def __init__(self, names: DNSServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.names, self.capsys = names, capsys
        self.status = -1

    def say(self, domain: str, *flags: str) -> str:
        resolver = ["--resolver", self.names.address]
        self.status = run(["mx", "lookup", domain, *resolver, *flags])
        return self.capsys.readouterr().out

    def tell(self, domain: str, *flags: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.say(domain, "--json", *flags))
        return told

    def places(self, domain: str, *flags: str) -> list[tuple[object, str, str, str]]:
        hosts = self.tell(domain, *flags)["hosts"]
        return [(h["place"], h["exchange"], h["address"], h["why"]) for h in hosts]


@pytest.fixture
def asker(names: DNSServer, capsys: pytest.CaptureFixture[str]) -> Asker:
    return Asker(names, capsys)


def test_a_plan_has_the_addresses_in_the_order_they_are_tried(asker: Asker) -> None:
    places = asker.places("D.example.", "--ip-family", "prefer6")
    assert places == [
        (1, "a.example", "2001:db8::1", "preference 10, IPv6 first"),
        (2, "a.example", "192.0.2.1", "preference 10, IPv6 first"),
        (3, "b.example", "192.0.2.2", "preference 20, IPv6 first"),
    ]
    assert asker.status == 0


def test_equals_are_said_to_be_equal(asker: Asker) -> None:
    places = asker.places("even.example", "--ip-family", "4")
    assert sorted(place[1] for place in places) == ["a.example", "b.example"]
    assert {place[3] for place in places} == {"preference 10, one of 2 equals in random order"}


def test_what_is_left_out_says_why(asker: Asker) -> None:
    own = ["--listen", "192.0.2.77:25"]
    assert asker.places("mixed.example", *own) == [
        (None, "gone.example", "", "has no address"),
        (None, "inner.example", "127.0.0.5", "denied by --deny-host"),
        (None, "us.example", "192.0.2.77", "our own address: we listen there"),
        (None, "b.example", "192.0.2.2", "no better than ourselves"),
    ]
    assert asker.status == 1
    assert asker.tell("mixed.example", *own)["reply"].startswith("451 4.4.4 ")
    kept = asker.places("better.example", *own, "--ip-family", "4")
    assert [place[0] for place in kept] == [1, None, None]
    assert asker.places("half.example")[1] == (
        None,
        "broken.example",
        "",
        "could not be looked up",
    )


def test_addresses_past_the_limit_say_so(asker: Asker) -> None:
    places = asker.places("many.example", "--mx-max-hosts", "3")
    assert len(places) == 10
    assert [place[0] for place in places] == [1, 2, 3] + [None] * 7
    assert places[3][3] == "more than --mx-max-hosts 3"


@pytest.mark.parametrize(
    ("domain", "reply"),
    [
        ("gone.example.com", "550 5.1.2"),
        ("null.example", "556 5.1.10"),
        ("no domain", "550 5.1.2"),
        ("[127.0.0.1]", "550 5.4.4"),
        ("broken.example", "451 4.4.3"),
    ],
)
def test_nowhere_to_send_is_status_1_with_the_reply_that_mail_would_get(
    asker: Asker, domain: str, reply: str
) -> None:
    assert asker.tell(domain)["reply"].startswith(reply)
    assert asker.status == 1
    assert reply in asker.say(domain).splitlines()[0]


def test_an_address_literal_needs_no_question(asker: Asker) -> None:
    told = asker.tell("[192.0.2.1]")
    assert (told["questions"], told["ttl_s"], told["hosts"][0]["place"]) == ([], None, 1)


def test_questions_come_with_ttl_and_aliases_and_lives_are_within_bounds(
    asker: Asker, names: DNSServer
) -> None:
    names.ttl_s = 7
    told = asker.tell("c1.example", "--ip-family", "4")
    first, *others = told["questions"]
    assert first.pop("took_ms") >= 0
    first["records"].sort()
    assert first == {
        "name": "c1.example",
        "kind": "MX",
        "found": "records",
        "ttl_s": 7.0,
        "aliases": ["d.example"],
        "records": ["10 a.example", "20 b.example"],
    }
    assert sorted((one["name"], one["kind"]) for one in others) == [
        ("a.example", "A"),
        ("b.example", "A"),
    ]
    assert (told["ttl_s"], told["remembered_s"]) == (7.0, 60.0)
    assert asker.tell("c1.example", "--mx-ttl-min", "0")["remembered_s"] == 7.0
    assert asker.tell("gone.example", "--mx-negative-ttl", "10s")["remembered_s"] == 10.0


def test_lines_for_people(asker: Asker) -> None:
    lines = asker.say("d.example", "--ip-family", "4", "--smtp-port", "2525").splitlines()
    assert lines[0] == "d.example: an attempt tries 2 addresses, at port 2525"
    assert lines[1] == "   1     10  a.example[192.0.2.1]  preference 10"
    assert lines[3].startswith("asked MX d.example: records (2), TTL 300 s, ")
    assert "remembered for 300 s" in lines
    assert lines[-1] == "no gateway was asked for its bad-host marks"


@pytest.mark.parametrize("smarthost", ["smart.example:587", "tls:smart.example:465"])
def test_a_smart_host_in_the_settings_is_pointed_at(asker: Asker, smarthost: str) -> None:
    said = asker.say("d.example", "--smarthost", smarthost)
    assert f"but all mail goes to {smarthost}: --smarthost" in said


def test_a_bad_setting_is_status_2(asker: Asker, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["mx", "lookup", "d.example", "--cname-limit", "x"]) == 2
    assert "--cname-limit: 'x'" in capsys.readouterr().err

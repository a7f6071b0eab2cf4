"""What packets.py reads and writes, beside what dnspython does of the same bytes."""

from ipaddress import IPv4Address, IPv6Address

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.mx import packets
from gwrelay.mx.exchanges import Answer, Question
from gwrelay.mx.resolver import read

ASKED_OF = "d.test"
SOA = "ns.test. hostmaster.test. 7 3600 600 86400 {}"


def respond(
    kind: str,
    records: tuple[str, ...] = (),
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    *,
    edns: bool = True,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
) -> tuple[bytes, dns.message.Message]:
    """A question and the response to it; records as "OWNER TTL TYPE DATA"."""
    asked = packets.query(Question(ASKED_OF, kind))
    response = dns.message.make_response(dns.message.from_wire(asked), recursion_available=True)
    response.use_edns(0 if edns else -1)
    response.set_rcode(rcode)
    for section, texts in (
        (response.answer, records),
        (response.authority, authority),
        (response.additional, additional),
    ):
        for text in texts:
            owner, ttl, rdtype, data = text.split(" ", 3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    return asked, response


@pytest.mark.parametrize("kind", ["MX", "A", "AAAA"])
def test_a_question_is_what_dnspython_would_ask(kind: str) -> None:
    asked = packets.query(Question("mx.D.test", kind))
    number = dns.message.from_wire(asked).id
    theirs = dns.message.make_query("mx.D.test", kind, use_edns=0, payload=1232, id=number)
    assert asked == theirs.to_wire()
    theirs.use_edns(-1)
    assert packets.without_edns(asked) == theirs.to_wire()


def test_the_answer_to_a_question_without_edns_is_read() -> None:
    asked, response = respond("A", ("d.test. 60 A 192.0.2.1",), edns=False)
    answer = packets.read(response.to_wire(), packets.without_edns(asked))
    assert answer == Answer("records", 60, addresses=("192.0.2.1",))


def test_each_question_has_an_id_of_its_own() -> None:
    ids = {packets.query(Question("d.test", "MX"))[:2] for _ in range(100)}
    assert len(ids) > 90


@pytest.mark.parametrize(
    ("kind", "records", "authority", "rcode", "wanted"),
    [
        (
            "A",
            ("d.test. 60 A 192.0.2.1", "d.test. 30 A 192.0.2.1"),
            (),
            0,
            Answer("records", 30, addresses=("192.0.2.1",)),
        ),
        (
            "AAAA",
            ("d.test. 60 AAAA ::ffff:192.0.2.1", "d.test. 60 AAAA 2001:db8::1"),
            (),
            0,
            Answer("records", 60, addresses=("::ffff:c000:201", "2001:db8::1")),
        ),
        (
            "MX",
            ("d.test. 300 MX 10 A.d.test.", "d.test. 300 MX 5 b.test.", "d.test. 300 MX 5 B.test."),
            (),
            0,
            Answer("records", 300, mx=((10, "a.d.test"), (5, "b.test"))),
        ),
        ("MX", ("d.test. 300 MX 0 .",), (), 0, Answer("records", 300, mx=((0, ""),))),
        ("MX", (), ("test. 600 SOA " + SOA.format(120),), 0, Answer("nodata", 120)),
        ("AAAA", (), ("test. 60 SOA " + SOA.format(120),), 0, Answer("nodata", 60)),
        ("MX", (), ("test. 600 SOA " + SOA.format(120),), 3, Answer("nxdomain", 120)),
    ],
)
@pytest.mark.parametrize("edns", [True, False])
def test_a_plain_answer_is_read(
    kind: str,
    records: tuple[str, ...],
    authority: tuple[str, ...],
    rcode: int,
    wanted: Answer,
    edns: bool,
) -> None:
    asked, response = respond(
        kind, records, authority, edns=edns, rcode=dns.rcode.from_flags(rcode, 0)
    )
    wire = response.to_wire()
    assert packets.read(wire, asked) == wanted == read(dns.message.from_wire(wire))


@pytest.mark.parametrize(
    "response",
    [
        respond("A", ("d.test. 60 CNAME e.test.", "e.test. 60 A 192.0.2.1")),
        respond("A", ("e.test. 60 A 192.0.2.1",)),
        respond("A", ("test. 60 A 192.0.2.1",)),
        respond("A", ("d.test. 60 TYPE65280 \\# 4 C0000201",)),
        respond("A", ("d.test. 4294967295 A 192.0.2.1",)),
        respond("A", (), ("test. 4294967295 SOA " + SOA.format(1),)),
        respond("A", ("d.test. 60 A 192.0.2.1",), ("test. 60 NS ns.test.",)),
        respond("MX", ("d.test. 60 MX 1 a.test.",), additional=("a.test. 60 TXT x",)),
        respond(
            "MX", ("d.test. 60 MX 1 a.test.",), additional=("a.test. 60 TYPE65280 \\# 4 C0000201",)
        ),
        respond("A"),
        respond("A", (), ("test. 60 NS ns.test.",)),
        respond("A", rcode=dns.rcode.SERVFAIL),
        respond("A", (), ("test. 60 SOA " + SOA.format(1),), rcode=dns.rcode.REFUSED),
        respond("A", ("d.test. 60 A 192.0.2.1",), rcode=dns.rcode.NXDOMAIN),
        respond("A", ("d.test. 60 A 192.0.2.1",), rcode=dns.rcode.BADVERS),
    ],
)
def test_what_is_not_plain_is_left_to_dnspython(
    response: tuple[bytes, dns.message.Message],
) -> None:
    asked, message = response
    assert packets.read(message.to_wire(), asked) is None


@pytest.mark.parametrize("edns", [True, False])
def test_addresses_beside_an_answer_are_passed_over(edns: bool) -> None:
    beside = ("a.test. 60 A 192.0.2.1", "a.test. 60 AAAA 2001:db8::1")
    asked, response = respond("MX", ("d.test. 60 MX 1 a.test.",), (), beside, edns=edns)
    assert packets.read(response.to_wire(), asked) == Answer("records", 60, mx=((1, "a.test"),))


_ADDRESS, _EXCHANGE = ("d.test. 60 A 192.0.2.1",), ("d.test. 60 MX 1 a.test.",)
_BESIDE = ("a.test. 60 A 192.0.2.1",)
_START = ("test. 60 SOA " + SOA.format(1),)
_QUESTIONS, _AUTHORITIES, _OTHERS = slice(4, 6), slice(8, 10), slice(10, 12)


@pytest.mark.parametrize(
    ("response", "place", "was", "becomes"),
    [
        (respond("A", _ADDRESS), _QUESTIONS, 1, 2),
        (respond("A", _ADDRESS), _AUTHORITIES, 0, 1),
        (respond("A", _ADDRESS), _OTHERS, 1, 2),
        (respond("A", (), _START), _AUTHORITIES, 1, 2),
        # An address in class 3.
        (respond("MX", _EXCHANGE, (), _BESIDE, edns=False), slice(-12, -10), 1, 3),
        # A byte more than an exchange's name, and than an SOA record, has.
        (respond("MX", _EXCHANGE, edns=False), slice(-9, -7), 6, 7),
        (respond("A", (), _START, edns=False), slice(-41, -39), 38, 39),
        # Of another type, but with what an SOA record has.
        (respond("A", (), _START, edns=False), slice(-48, -46), 6, 99),
    ],
)
def test_what_does_not_add_up_is_left_to_dnspython(
    response: tuple[bytes, dns.message.Message], place: slice, was: int, becomes: int
) -> None:
    asked, message = response
    wire = bytearray(message.to_wire() + (b"\0" if becomes in (7, 39) else b""))
    assert int.from_bytes(wire[place]) == was
    wire[place] = becomes.to_bytes(2)
    assert packets.read(bytes(wire), asked) is None


def test_edns_is_said_once_and_of_the_root() -> None:
    asked, response = respond("A", _ADDRESS, edns=False)
    edns = packets.query(Question(ASKED_OF, "A"))[-11:]

    def read_with(extra: bytes, count: int) -> Answer | None:
        wire = bytearray(response.to_wire() + extra)
        wire[_OTHERS] = count.to_bytes(2)
        return packets.read(bytes(wire), asked)

    assert read_with(edns, 1) is not None
    assert read_with(2 * edns, 2) is None
    assert read_with(edns[:-1] + b"\1x", 1) is None
    assert read_with(b"\xc0\x0c" + edns[1:], 1) is None


def test_what_is_no_answer_to_the_question_is_none() -> None:
    asked, response = respond("A", ("d.test. 60 A 192.0.2.1",))
    wire = response.to_wire()
    assert packets.read(wire, asked) is not None
    assert packets.read(wire, asked[:2] + packets.query(Question("e.test", "A"))[2:]) is None
    assert packets.read(wire[:2] + packets.query(Question(ASKED_OF, "A"))[2:], asked) is None
    assert packets.read(bytes([wire[0] ^ 1]) + wire[1:], asked) is None
    response.flags |= dns.flags.TC
    assert packets.read(response.to_wire(), asked) is None
    response.flags ^= dns.flags.TC
    response.set_opcode(dns.opcode.NOTIFY)
    assert packets.read(response.to_wire(), asked) is None
    for end in range(len(wire)):
        assert packets.read(wire[:end], asked) is None
    assert packets.read(wire + b"\0", asked) is None


_TTLS = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 600))
_NAMES = st.sampled_from(["d.test.", "D.test.", "a.d.test.", "mx.test.", "."])
_RECORDS = st.one_of(
    st.tuples(
        _NAMES, _TTLS, st.just("A"), st.builds(str, st.builds(IPv4Address, st.integers(0, 9)))
    ),
    st.tuples(
        _NAMES,
        _TTLS,
        st.just("AAAA"),
        st.builds(str, st.builds(IPv6Address, st.sampled_from([0, 1, 0xFFFF00000001, 1 << 127]))),
    ),
    st.tuples(
        _NAMES, _TTLS, st.just("MX"), st.builds("{} {}".format, st.integers(0, 65535), _NAMES)
    ),
    st.tuples(_NAMES, _TTLS, st.just("CNAME"), _NAMES),
    st.tuples(_NAMES, _TTLS, st.just("SOA"), st.builds(SOA.format, _TTLS)),
).map(lambda record: "{} {} {} {}".format(*record))
_FEW = st.lists(_RECORDS, max_size=3).map(tuple)
_KINDS = st.sampled_from(["MX", "A", "AAAA"])


def _plain(kind: str, text: str) -> st.SearchStrategy[tuple[str, tuple[str, ...]]]:
    records = st.lists(_TTLS.map(text.format), min_size=1, max_size=3).map(tuple)
    return st.tuples(st.just(kind), records)


#: A question and what answers it, mostly plain.
_ANSWERED = st.one_of(
    st.tuples(_KINDS, _FEW),
    st.tuples(_KINDS, st.just(())),
    _plain("A", "d.test. {} A 192.0.2.1"),
    _plain("AAAA", "d.test. {} AAAA 2001:db8::1"),
    _plain("MX", "d.test. {} MX 1 A.test."),
)
_SOA = _TTLS.map(("test. 600 SOA " + SOA).format).map(lambda text: (text,))
_NOTHING = st.just(())
_CODES = [dns.rcode.NOERROR, dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.BADVERS]
_DAMAGE = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)


@given(
    _ANSWERED, st.one_of(_NOTHING, _SOA, _FEW), st.one_of(_NOTHING, _NOTHING, _FEW),
    st.booleans(), st.sampled_from(_CODES), st.one_of(_NOTHING, _DAMAGE),
)  # fmt: skip
def test_whatever_is_read_dnspython_reads_alike(
    answered: tuple[str, tuple[str, ...]],
    authority: tuple[str, ...],
    additional: tuple[str, ...],
    edns: bool,
    rcode: dns.rcode.Rcode,
    damage: list[tuple[int, int]],
) -> None:
    asked, response = respond(*answered, authority, additional, edns=edns, rcode=rcode)
    wire = bytearray(response.to_wire(max_size=65535))
    for place, byte in damage:
        wire[place % len(wire)] = byte
    found = packets.read(bytes(wire), asked)
    if found is not None:
        theirs = dns.message.from_wire(bytes(wire))
        assert dns.message.from_wire(asked).is_response(theirs)
        assert found == read(theirs)

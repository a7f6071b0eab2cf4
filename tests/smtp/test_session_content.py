"""What ends content, what spoils it, and that nothing else changes it (RFC 5321 4.5.2)."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.smtp.session import PIECE_BYTES, Discard, Piece, Policy, Session, Submission
from support.dialogue import ENVELOPE, POLICY, QUEUED, TO_CONTENT, Client, Heard, codes, converse

END = b".\r\n"
#: What a smuggler hides behind a line end that only somebody else takes for one.
SMUGGLED = b"MAIL FROM:<evil@evil.example>\r\nRCPT TO:<victim@d.example>\r\nDATA\r\nevil\r\n"


def stuffed(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]


def send(on_the_wire: bytes, policy: Policy = POLICY) -> Heard:
    """The message `on_the_wire`, a NOOP behind it; what came after the 354."""
    heard = converse(TO_CONTENT + on_the_wire + b"NOOP\r\n", policy)
    assert heard.codes[:4] == ["250", "250 2.1.0", "250 2.1.5", "354"]
    return heard._replace(codes=heard.codes[4:])


@pytest.mark.parametrize(
    "sequence",
    [
        pytest.param(sequence, id=f"faults {number}: {sequence!r}")
        for number, sequences in {
            1: [b"\n.\n"],
            2: [b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r.\n", b"\n.\r"],
            3: [b"\r\n.\r\r\n", b"\r\r\n.\r\r\n"],
            7: [b"\n", b"\r", b"\n\n", b"\r\r\n", b"\n\r", b"\r\n\n", b"\r\n\r"],
        }.items()
        for sequence in sequences
    ],
)
def test_a_bare_cr_or_lf_ends_nothing_and_spoils_the_message(sequence: bytes) -> None:
    heard = send(b"first" + sequence + SMUGGLED + END)
    assert heard.codes == ["550 5.6.0", "250 2.0.0"]
    assert heard.messages == []


@pytest.mark.parametrize("content", [b"\n", b"\r", b"\n.\r\n", b"x\n\r\n", b"\r\r\n", b"x\r\r\n"])
def test_a_bare_cr_or_lf_at_either_edge_of_the_content_is_found(content: bytes) -> None:
    assert send(content + b"\r\n" + END).codes == ["550 5.6.0", "250 2.0.0"]


def test_cr_before_the_true_end_spoils_the_message_but_the_end_it_is() -> None:
    assert send(b"x\r\r\n" + END).codes == ["550 5.6.0", "250 2.0.0"]


@pytest.mark.parametrize(
    "character",
    [*b"\0 \t\v\f\x1c\x1d\x1e\x85", *"\u0085\u2028\u2029"],
    ids=repr,
)
@pytest.mark.parametrize("shape", ["odd before the dot", "odd after the dot", "odd for CRLF"])
def test_what_only_looks_like_an_end_is_content(  # faults 4
    character: int | str, shape: str
) -> None:
    odd = bytes([character]) if isinstance(character, int) else character.encode()
    lookalike = {
        "odd before the dot": b"\r\n" + odd + b".\r\n",
        "odd after the dot": b"\r\n." + odd + b"\r\n",
        "odd for CRLF": odd + b"." + odd,
    }[shape]
    content = b"first" + lookalike + SMUGGLED
    heard = send(content + END)
    assert heard.codes == ["250 2.0.0", "250 2.0.0"]
    assert heard.messages[0][1] == content.replace(b"\r\n.", b"\r\n")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=repr(content[:20]))
        for content in [
            b"",
            b"\r\n",
            b"\r\n\r\n",
            b".\r\n",
            b"..\r\n",
            b"...\r\n.\r\n..\r\n",
            b".\r\n.\r\n",
            b"no header\r\n",
            b"\r\nonly a body\r\n",
            b"ends in a dot.\r\n",
            b".leading\r\n.dots\r\n",
            b"a\r\n.\r\nb\r\n",
            b"\0\r\n\0.\0\r\n",
            b"x" * 5000 + b"\r\n",
            bytes(range(14, 256)) + b"\r\n",
            b"Received: x\r\n" * 3 + b"\r\n.\r\n",
        ]
    ],
)
def test_content_arrives_byte_for_byte(content: bytes) -> None:  # faults 8, 13, 46, 58
    heard = send(stuffed(content) + END)
    assert heard.codes == ["250 2.0.0", "250 2.0.0"]
    assert heard.messages[0][1] == content


@pytest.mark.parametrize("at", range(len(TO_CONTENT), len(TO_CONTENT) + 16))
def test_a_chunk_may_end_anywhere_in_the_end_of_content(at: int) -> None:  # faults 5, 6
    text = TO_CONTENT + b"a\r\n..\r\n.\r\nNOOP\r\n"
    client = Client()
    client.say(text[:at], text[at:])
    assert [content for _, content in client.messages] == [b"a\r\n.\r\n"]
    assert codes(client.output)[-2:] == ["250 2.0.0", "250 2.0.0"]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 4, 5, 7, 64])
def test_an_unfinished_content_is_no_message(chunk_bytes: int) -> None:  # faults 64, 65
    text = TO_CONTENT + b"half a message\r\n.\r"
    client = Client()
    client.say(*(text[at : at + chunk_bytes] for at in range(0, len(text), chunk_bytes)))
    assert client.messages == []
    assert client.session.in_content


# Lines that may hold anything a wire can carry, dots and borders above all.
CONTENT = st.lists(
    st.one_of(
        st.sampled_from([b"", b".", b"..", b". ", b"\0", b"Received: x", b"\xff" * 3, b" "]),
        st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")),
    ),
    max_size=20,
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


def cut(text: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(borders)]


@given(CONTENT, CONTENT, st.lists(st.integers(0, 2000), max_size=30))
def test_any_content_survives_any_cutting(first: bytes, second: bytes, places: list[int]) -> None:
    again = ENVELOPE + b"DATA\r\n"
    text = TO_CONTENT + stuffed(first) + END + again + stuffed(second) + END
    client = Client()
    client.say(*cut(text, places))
    assert [content for _, content in client.messages] == [first, second]


@given(st.binary(max_size=200), st.lists(st.integers(0, 2000), max_size=30))
def test_content_is_taken_exactly_when_no_cr_or_lf_is_bare(noise: bytes, places: list[int]) -> None:
    content = noise + b"\r\n"
    client = Client()
    client.say(*cut(TO_CONTENT + stuffed(content) + END, places))
    bare = content.replace(b"\r\n", b"")
    if b"\r" in bare or b"\n" in bare:
        assert client.messages == []
        assert codes(client.output)[4] == "550 5.6.0"
    else:
        assert [whole for _, whole in client.messages] == [content]


# What the content needs of the next hop.


@pytest.mark.parametrize("declared", [b"", b" BODY=7BIT", b" BODY=8BITMIME", b" body=8bitmime"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "7BIT"),
        (b"ascii\r\n", "7BIT"),
        (b"\0\x7f\r\n", "7BIT"),
        (b"\xe9\r\n", "8BITMIME"),
        (b"a" * 3000 + b"\r\n\x80\r\n", "8BITMIME"),
    ],
)
def test_the_body_kind_is_what_the_content_is(
    declared: bytes, content: bytes, expected: str
) -> None:
    text = b"EHLO c\r\nMAIL FROM:<a@b.c>" + declared + b"\r\nRCPT TO:<c@d.e>\r\nDATA\r\n"
    heard = converse(text + content + END)
    assert heard.messages[0][0].body == expected


@pytest.mark.parametrize(
    ("sender", "recipients", "subject", "is_needed"),
    [
        ("a@b.c", ["c@d.e"], "plain", False),
        ("ü@b.c", ["c@d.e"], "plain", True),
        ("", ["c@d.e", "c@dömäin.e"], "plain", True),
        ("a@b.c", ["c@d.e> ORCPT=utf-8;ü@d.e NOTIFY=NEVER"], "plain", True),
        ("a@b.c", ["c@d.e"], "größe", True),
    ],
)
def test_smtputf8_is_asked_for_when_something_needs_it(
    sender: str, recipients: list[str], subject: str, is_needed: bool
) -> None:
    """Clients that can do it say so always, and most next hops cannot."""
    commands = ["EHLO c", f"MAIL FROM:<{sender}> SMTPUTF8"]
    commands += [f"RCPT TO:<{to}" + ("" if ">" in to else ">") for to in recipients]
    text = "\r\n".join([*commands, "DATA", f"Subject: {subject}", "", "x", ""]).encode()
    [(envelope, _)] = converse(text + END).messages
    assert envelope.smtputf8 is is_needed


# Hops.


def hops(count: int, field: bytes = b"Received: from x\r\n\tby y; today\r\n") -> bytes:
    return field * count


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(hops(100) + b"\r\nbody\r\n", "250 2.0.0", id="as many as allowed"),
        pytest.param(hops(101) + b"\r\nbody\r\n", "554 5.4.6", id="one more"),
        pytest.param(hops(101, b"RECEIVED:x\r\n") + b"\r\n", "554 5.4.6", id="upper case"),
        pytest.param(hops(101, b"rEcEiVeD: x\r\n"), "554 5.4.6", id="header without end"),
        pytest.param(hops(90) + b"\r\n" + hops(90), "250 2.0.0", id="quoted in the body"),
        pytest.param(b"\r\n" + hops(200), "250 2.0.0", id="body only"),
        pytest.param(hops(200, b"Received-SPF: x\r\n"), "250 2.0.0", id="another field"),
        pytest.param(hops(200, b"X: y\r\n Received: x\r\n"), "250 2.0.0", id="folded"),
        pytest.param(b"Subject: x\r\n" + hops(101), "554 5.4.6", id="below other fields"),
        pytest.param(hops(200, b"..Received: x\r\n"), "250 2.0.0", id="behind a dot"),
        pytest.param(hops(101, b".Received: x\r\n"), "554 5.4.6", id="behind a stuffing dot"),
    ],
)
def test_a_message_with_too_many_hops_is_a_loop(content: bytes, expected: str) -> None:  # 57
    heard = send(content + END)
    assert heard.codes == [expected, "250 2.0.0"]
    assert len(heard.messages) == (expected == "250 2.0.0")


# Size.


@pytest.mark.parametrize("size", [b"", b" SIZE=5"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x" * 98 + b"\r\n", "250 2.0.0"),
        (b"x" * 99 + b"\r\n", "552 5.3.4"),
        (b"x" * 196 + b"\r\n", "552 5.3.4"),
        # Stuffed dots are no part of the size (RFC 1870 4).
        (b".\r\n" * 33, "250 2.0.0"),
        (b".\r\n" * 34, "552 5.3.4"),
    ],
)
def test_the_limit_holds_for_what_comes_not_for_what_was_declared(  # faults 30
    content: bytes, expected: str, size: bytes
) -> None:
    text = b"EHLO c\r\nMAIL FROM:<a@b.c>" + size + b"\r\nRCPT TO:<c@d.e>\r\nDATA\r\n"
    heard = converse(text + stuffed(content) + END + b"NOOP\r\n", Policy("gw.example", 100))
    assert heard.codes[4:] == [expected, "250 2.0.0"]
    assert len(heard.messages) == (expected == "250 2.0.0")


def test_content_that_goes_on_beyond_twice_the_limit_costs_the_connection() -> None:  # faults 68
    heard = converse(TO_CONTENT + b"x" * 300, Policy("gw.example", 100))
    assert heard.codes[4:] == ["552 5.3.4"]
    assert heard.closing


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (hops(101) + b"\n\r\n" + b"x" * 8000, "552 5.3.4"),
        (hops(101) + b"\n\r\n", "550 5.6.0"),
        (b"\n\r\n" + b"x" * 8000, "552 5.3.4"),
    ],
)
def test_a_message_with_several_faults_is_refused_for_the_same_one_however_cut(
    content: bytes, expected: str
) -> None:
    assert send(content + b"\r\n" + END, Policy("gw.example", 8000)).codes[0] == expected


# Content too large to hold.


def session_in_content(max_message_size: int = 100_000_000) -> Session:
    session = Session(Policy("gw.example", max_message_size), may_relay=True, intake=lambda: None)
    session.receive(TO_CONTENT)
    session.output()
    return session


@pytest.mark.parametrize("chunk_bytes", [1000, 4096, 65_536, 100_000, 1_000_000])
def test_large_content_comes_in_pieces_that_add_up(chunk_bytes: int) -> None:
    content = b"".join(b"%d\r\n.%d\r\n..\r\n" % (n, n) for n in range(60_000))
    session = session_in_content()
    text = stuffed(content) + END
    events = []
    for at in range(0, len(text), chunk_bytes):
        events += session.receive(text[at : at + chunk_bytes])

    *pieces, last = events
    assert pieces
    assert all(isinstance(p, Piece) and len(p.content) >= PIECE_BYTES for p in pieces)
    assert isinstance(last, Submission)
    assert b"".join(event.content for event in events) == content
    assert last.envelope.body == "7BIT"


def test_8bit_content_in_an_early_piece_is_remembered() -> None:
    session = session_in_content()
    session.receive(b"\xff" * PIECE_BYTES + b"\r\n")
    (last,) = session.receive(b"ascii\r\n" + END)
    assert isinstance(last, Submission)
    assert last.envelope.body == "8BITMIME"


@pytest.mark.parametrize("spoiler", [b"\n", b"x" * 2 * PIECE_BYTES, hops(101)])
def test_pieces_of_a_refused_content_are_discarded_once(spoiler: bytes) -> None:
    session = session_in_content(3 * PIECE_BYTES)
    field = b"Subject: " + b"x" * (2 * PIECE_BYTES) + b"\r\n"
    events = session.receive(field)
    assert [type(event) for event in events] == [Piece]
    for chunk in (spoiler, b"more", b"and more", b"\r\n" + END):
        events += session.receive(chunk)
    assert [type(event) for event in events] == [Piece, Discard]
    (code,) = codes(session.output())
    assert code.startswith("5")
    assert not session.closing


def test_pieces_are_discarded_when_the_content_costs_the_connection() -> None:
    session = session_in_content(PIECE_BYTES)
    events = session.receive(b"x" * PIECE_BYTES) + session.receive(b"x" * (2 * PIECE_BYTES))
    assert [type(event) for event in events] == [Piece, Discard]
    assert session.closing


def test_a_refused_content_that_was_never_handed_over_has_nothing_to_discard() -> None:
    session = session_in_content()
    assert session.receive(b"\n" + b"x" * 3 * PIECE_BYTES + b"\r\n" + END) == []


def test_the_next_message_after_a_discarded_one_is_whole() -> None:
    session = session_in_content(3 * PIECE_BYTES)
    session.receive(b"x" * 2 * PIECE_BYTES + b"\n")
    session.receive(b"\r\n" + END)
    (event,) = session.receive(ENVELOPE + b"DATA\r\nwhole\r\n" + END)
    assert isinstance(event, Submission)
    assert event.content == b"whole\r\n"
    session.answer(QUEUED)


def peak_bytes(session: Session, chunks: list[bytes], times: int) -> int:
    """Most memory the session came to hold while it was fed and its events were dropped."""
    tracemalloc.start()
    for _ in range(times):
        for chunk in chunks:
            session.receive(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    ("chunks", "times"),
    [
        pytest.param([b"x" * 65_536], 400, id="one endless line"),
        pytest.param([b"X: " + b"y" * 65_000 + b"\r\n"], 400, id="endless header"),
        pytest.param([b" z" * 30_000 + b"\r\n"], 400, id="folded bomb"),
        pytest.param([b"xy"], 60_000, id="two bytes at a time"),
        pytest.param([b"\r\n.."], 60_000, id="nothing but stuffed dots"),
        pytest.param([b"\n" * 65_536], 400, id="after it is spoilt"),
    ],
)
def test_memory_stays_flat_however_much_content_comes(  # faults 13, 30, 68
    chunks: list[bytes], times: int
) -> None:
    assert peak_bytes(session_in_content(10**12), chunks, times) < 4 * PIECE_BYTES


def test_content_that_is_spoilt_is_let_go_at_once() -> None:
    session = session_in_content()
    tracemalloc.start()
    session.receive(b"x" * (PIECE_BYTES - 1))
    held = tracemalloc.get_traced_memory()[0]
    session.receive(b"\nx")
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held > PIECE_BYTES - 1000
    assert left < 1000


def test_memory_stays_flat_between_the_limit_and_the_closing() -> None:
    assert peak_bytes(session_in_content(20_000_000), [b"x" * 65_536], 550) < 4 * PIECE_BYTES

"""A reply as a value: its class, its words for people, its bytes (RFC 5321 4.2)."""

import pytest

from gwrelay.message.reply import Reply

CLASSES = [
    # code, positive, permanent, temporary
    (0, False, False, True),
    (100, False, False, True),
    (199, False, False, True),
    (200, True, False, False),
    (250, True, False, False),
    (299, True, False, False),
    (300, False, False, True),
    (354, False, False, True),
    (399, False, False, True),
    (400, False, False, True),
    (421, False, False, True),
    (452, False, False, True),
    (499, False, False, True),
    (500, False, True, False),
    (555, False, True, False),
    (599, False, True, False),
    (600, False, False, True),
]


@pytest.mark.parametrize(("code", "positive", "permanent", "temporary"), CLASSES)
def test_only_2xx_is_a_yes_and_only_5xx_a_definite_no(
    code: int, positive: bool, permanent: bool, temporary: bool
) -> None:
    reply = Reply(code, "", "text")
    assert (reply.is_positive, reply.is_permanent, reply.is_temporary) == (
        positive,
        permanent,
        temporary,
    )


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(250, "2.0.0", "taken"), "250 2.0.0 taken"),
        (Reply(250, "", "taken"), "250 taken"),
        (Reply(250, "", ""), "250"),
        (Reply(550, "5.1.1", ""), "550 5.1.1"),
        (Reply(550, "5.1.1", "no\nsuch user"), "550 5.1.1 no\nsuch user"),
    ],
)
def test_a_reply_reads_as_it_was_said(reply: Reply, said: str) -> None:
    assert str(reply) == said


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (Reply(250, "2.0.0", "taken"), b"250 2.0.0 taken\r\n"),
        (Reply(354, "", "go on"), b"354 go on\r\n"),
        (Reply(221, "2.0.0", ""), b"221 2.0.0 \r\n"),
        (Reply(250, "", "gw.example\nSIZE 5\nDSN"), b"250-gw.example\r\n250-SIZE 5\r\n250 DSN\r\n"),
        (Reply(550, "5.1.1", "no\nwho"), b"550-5.1.1 no\r\n550 5.1.1 who\r\n"),
        (Reply(250, "", "größe"), "250 größe\r\n".encode()),
    ],
)
def test_a_reply_is_written_line_by_line_with_its_status_on_each(reply: Reply, wire: bytes) -> None:
    assert reply.encode() == wire

"""What a sink makes of what arrived: what came again, what was spoilt, over all its processes."""

import json
from array import array

from gwrelay_bench.ledger import AGAIN, ARRIVED, BYTES, RECIPIENTS, SPOILT
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.tally import Tally, known_by, merged

WITH_ID = b"Received: x\r\nmessage-id:  <1@a.example>\r\n\r\nbody\r\n"


def arrival(content: bytes, *recipients: str) -> Arrival:
    return Arrival(1.0, "", "s@a.example", recipients, len(content), "", content)


def tally() -> tuple[Tally, array]:  # type: ignore[type-arg]
    counters = array("q", [0] * 16)
    return Tally(counters), counters


def test_a_message_comes_again_only_for_the_same_recipient() -> None:
    found, counters = tally()
    for recipients in (("a@x.example", "b@x.example"), ("c@x.example",), ("A@X.example",)):
        found.note(arrival(WITH_ID, *recipients))
    assert (counters[ARRIVED], counters[RECIPIENTS], counters[AGAIN]) == (3, 4, 1)
    assert counters[BYTES] == 3 * len(WITH_ID)
    assert counters[SPOILT] == 0


def test_without_a_message_id_it_is_known_by_what_it_says() -> None:
    found, counters = tally()
    for content in (b"one\r\n", b"two\r\n", b"one\r\n", b"", b""):
        found.note(arrival(content, "a@x.example"))
    assert counters[AGAIN] == 2


def test_a_message_id_in_the_body_is_none() -> None:
    assert known_by(b"Subject: x\r\n\r\nMessage-ID: <1@a>\r\n").identity != "<1@a>"
    assert known_by(WITH_ID).identity == "<1@a.example>"


def test_a_body_that_is_not_what_its_header_says_is_spoilt() -> None:
    found, counters = tally()
    found.note(arrival(b"X-Load-Body: 00\r\n\r\nbody\r\n", "a@x.example"))
    assert counters[SPOILT] == 1


def test_what_came_again_at_another_process_came_again() -> None:
    found = [tally()[0] for _ in range(3)]
    for one in found:
        one.note(arrival(WITH_ID, "a@x.example"))
    found[0].note(arrival(b"other\r\n", "a@x.example"))
    told = [json.loads(json.dumps(one.told())) for one in found]
    recipients, again, contents = merged(told)
    assert (recipients, again) == (2, 2)
    assert sorted(contents.values()) == [1, 3]
    assert merged([]) == (0, 0, {})

"""The benches of outbound sessions, tiny: what they print is whole.  Never how fast it is."""

from pathlib import Path

import pytest

from gwrelay_bench import session
from support.benches import bench
from support.peer import Peer
from support.processes import program


@pytest.mark.parametrize("size_bytes", [100, 4096, 4097])
def test_content_is_as_long_as_asked_and_whole_lines(size_bytes: int) -> None:
    content = session.content_of(size_bytes)
    assert len(content) == size_bytes
    assert content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")


@pytest.mark.parametrize("contestant", session.CONTESTANTS)
def test_every_contestant_sends_the_same_messages(contestant: str) -> None:
    content = session.content_of(500)
    with Peer() as peer:
        lap = session.CONTESTANTS[contestant](peer.port, content, 5)
        assert [m.content for m in peer.messages] == [content] * 5
        assert {m.recipients for m in peer.messages} == {(session.RECIPIENT,)}
        assert {m.session for m in peer.messages} == {1}
    assert lap.figures["per_s"] > 0


def test_each_contestant_is_a_line_near_and_far_beside_stock_smtplib(tmp_path: Path) -> None:
    program("smtp-sink")
    tiny = ("--messages", "80", "--rounds", "1", "--size", "1024", "--delay", "20")
    lines = bench(tmp_path, "session", *tiny)
    found = [(line["settings"]["path"], line["settings"]["contestant"]) for line in lines]
    assert found == [(p, c) for p in session.TARGETS for c in session.CONTESTANTS]
    for line in lines:
        assert line["settings"]["message_bytes"] == 1024
        ratio = line["figures"]["per_s"] / line["baseline"]["per_s"]
        assert line["ratio"] == pytest.approx(ratio, rel=0.01)
        is_ours = line["settings"]["contestant"] == "relayer"
        assert [target["figure"] for target in line["targets"]] == ["ratio"] * is_ours
    # Four replies to a message, each a round trip of 20 ms away.
    far = lines[3]
    assert far["settings"]["messages"] == 2
    assert far["figures"]["per_s"] < 12.5


@pytest.mark.parametrize("tls", [False, True])
def test_slow_sessions_are_all_open_at_once(tmp_path: Path, tls: bool) -> None:
    small = ("--sessions", "100", "--messages", "2", "--delay", "0.1")
    [line] = bench(tmp_path, "sessions", *small, *(["--tls"] * tls))
    assert line["figures"]["sessions_at_once"] == 100
    assert line["figures"]["messages_per_s"] > 0
    assert 0 < line["ratio"] <= 1
    named = {target["figure"] for target in line["targets"]}
    assert named == {"sessions_at_once"} | ({"kib_a_session"} if not tls else set())

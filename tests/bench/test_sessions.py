"""The benches of outbound sessions do what they say, on a small scale."""

import pytest

from gwrelay_bench import session
from support.patched import run_patched
from support.peer import Peer


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
    assert lap.rate > 0


@pytest.mark.parametrize("tls", [False, True])
def test_slow_sessions_are_all_open_at_once(tls: bool) -> None:
    run_patched(f"""
        import tempfile
        from gwrelay_bench import sessions
        from gwrelay_bench.child import port_of

        with tempfile.TemporaryDirectory() as directory:
            certificate = sessions._certificate(directory) if {tls} else ""
            sink = ("--sink", "--delay", "0.1", "--certificate", certificate)
            with port_of("gwrelay_bench.sessions", *sink) as port:
                result = sessions.measure(port, 100, 2, 0.1, {tls})
        assert result.figures["sessions_at_once"] == 100, result
        assert result.figures["messages_per_s"] > 0
        assert 0 < result.ratio <= 1, result
    """)

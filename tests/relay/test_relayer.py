"""A relayer against scripted servers: which host it asks, what it makes of what they say."""

import time
from collections.abc import Iterator

import pytest

from gwrelay.errors import StoreDamaged, StoreFailed
from gwrelay.message.envelope import Envelope, Message
from gwrelay.mx.exchanges import Exchange
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.store import Doubt, Host, State
from gwrelay.relay import session
from gwrelay.relay.relayer import (
    RelayerSettings,
    SMTPManagedRelayerFactory,
)
from support.mail import CONTENT, envelope
from support.peer import DROP, POLITE, RESET, STALL, Command, Pause, Peer, Slow
from support.relaying import RETRY, Rig, nobody_listens

KINDS = {"2": "delivered", "4": "deferred", "5": "failed"}


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def second() -> Iterator[Peer]:
    with Peer(name="second.example") as peer:
        yield peer


def to(*names: str) -> Envelope:
    return envelope(*(f"{name}@b.test" for name in names))


def verbs(peer: Peer) -> list[str]:
    """All that the peer was told, once its sessions are over."""
    peer.wait_for(lambda peer: peer.open == 0)
    return peer.verbs()


def many(count: int) -> list[Envelope]:
    return [to(f"u{n}") for n in range(count)]


# -- one message -----------------------------------------------------------------------------


def test_a_message_is_delivered_as_it_is(peer: Peer) -> None:
    rig = Rig(peer)
    content = b"Subject: dots\r\n\r\n.one\r\n..two\r\n.\r\n\xff\r\n"
    [end] = rig.relay(to("x", "y"), content=content)
    assert end.kinds == ["delivered", "delivered"]
    assert end.replies == ["250 2.0.0 taken"] * 2
    assert (end.told[0].exchange, end.told[0].address) == ("mx0.test", "127.0.0.1")
    [message] = peer.messages
    assert message.content == content
    assert message.reverse_path == "sender@a.test"
    assert message.recipients == ("x@b.test", "y@b.test")
    assert message.helo == "gw.test"
    assert len(rig.queue) == 0


def test_recipients_are_told_apart(peer: Peer) -> None:
    peer.recipient("no@b.test", "550 5.1.1 nobody").recipient("later@b.test", "450 4.2.1 grey")
    [end] = Rig(peer).relay(to("yes", "no", "later"))
    assert end.replies == ["250 2.0.0 taken", "550 5.1.1 nobody", "450 4.2.1 grey"]
    assert end.kinds == ["delivered", "failed", "deferred"]
    assert end.settled.settlement.remaining[0].recipients == (2,)
    assert peer.arrived() == {"yes@b.test": 1}


def test_the_null_reverse_path_stays_null(peer: Peer) -> None:
    Rig(peer).relay(envelope("x@b.test", reverse_path=""))
    assert peer.messages[0].reverse_path == ""


# -- how it introduces itself --------------------------------------------------------------


def test_the_smtp_relayer_says_helo_and_uses_no_extension(peer: Peer) -> None:
    factory = SMTPManagedRelayerFactory(RelayerSettings("gw.test", idle_timeout_s=0))
    [end] = Rig(peer, factory=factory).relay(to("x", "y"))
    assert end.kinds == ["delivered", "delivered"]
    assert verbs(peer) == ["HELO", "MAIL", "RCPT", "RCPT", "DATA", ".", "QUIT"]
    assert peer.messages[0].mail_parameters == ""


def test_the_esmtp_relayer_says_ehlo_and_uses_what_is_offered(peer: Peer) -> None:
    Rig(peer).relay(to("x"))
    assert verbs(peer)[0] == "EHLO"
    assert peer.messages[0].mail_parameters == f"SIZE={len(CONTENT)}"


@pytest.mark.parametrize("reply", ["502 5.5.1 what?", "500 what?", "550 no"])
def test_a_server_that_knows_no_ehlo_gets_helo(peer: Peer, reply: str) -> None:
    peer.always("EHLO", reply)
    [end] = Rig(peer).relay(to("x"))
    assert end.kinds == ["delivered"]
    assert verbs(peer)[:2] == ["EHLO", "HELO"]
    assert peer.messages[0].mail_parameters == ""


# -- one session, many messages ----------------------------------------------------------------


def test_a_session_carries_message_after_message(peer: Peer) -> None:
    ends = Rig(peer).relay(*many(5))
    assert [end.kinds for end in ends] == [["delivered"]] * 5
    assert peer.connections == 1
    assert verbs(peer).count("EHLO") == 1
    assert "RSET" not in verbs(peer)
    assert verbs(peer)[-1] == "QUIT"


def test_a_session_ends_after_so_many_messages(peer: Peer) -> None:
    Rig(peer, max_messages_per_connection=3).relay(*many(7))
    assert len(peer.messages) == 7
    assert [m.session for m in peer.messages] == [1, 1, 1, 2, 2, 2, 3]


def test_a_session_is_used_for_so_long(peer: Peer) -> None:
    Rig(peer, connection_lifetime_s=0.0).relay(*many(3))
    assert [m.session for m in peer.messages] == [1, 2, 3]


def test_a_refused_message_leaves_the_session_to_the_next(peer: Peer) -> None:
    peer.recipient("u0@b.test", "550 5.1.1 nobody")
    ends = Rig(peer).relay(*many(2))
    assert [end.kinds for end in ends] == [["failed"], ["delivered"]]
    assert peer.connections == 1
    assert "RSET" in verbs(peer)


@pytest.mark.parametrize(
    "then", [(DROP,), (RESET,), ("421 4.3.2 going down", DROP)], ids=["closed", "reset", "421"]
)
def test_a_kept_session_found_closed_is_replaced_at_no_charge(
    peer: Peer, then: tuple[object, ...]
) -> None:
    """The server hangs up after its first message; the second one must not notice."""
    peer.once(".", (POLITE, *then))
    ends = Rig(peer, max_sessions=1).relay(*many(2))
    assert [end.kinds for end in ends] == [["delivered"], ["delivered"]]
    assert [m.session for m in peer.messages] == [1, 2]


@pytest.mark.parametrize("rude", [DROP, RESET], ids=["closed", "reset"])
def test_a_kept_session_lost_at_mail_is_replaced_at_no_charge(peer: Peer, rude: object) -> None:
    peer.once("MAIL", POLITE, rude)
    rig = Rig(peer, max_sessions=1)
    ends = rig.relay(*many(2))
    assert [(end.attempt, end.kinds) for end in ends] == [(1, ["delivered"])] * 2
    assert [m.session for m in peer.messages] == [1, 2]
    assert not rig.is_bad(peer)


def test_a_kept_session_whose_rset_fails_is_replaced_at_no_charge(peer: Peer) -> None:
    peer.recipient("u0@b.test", "550 5.1.1 nobody").once("RSET", "421 4.3.2 too many errors")
    ends = Rig(peer, max_sessions=1).relay(*many(2))
    assert [end.kinds for end in ends] == [["failed"], ["delivered"]]
    assert peer.messages[0].session == 2


def test_a_new_session_lost_at_mail_is_charged(peer: Peer) -> None:
    peer.always("MAIL", DROP)
    [end] = Rig(peer).relay(to("x"))
    assert end.kinds == ["deferred"]
    assert peer.connections == 1


EIGHT_BIT = "Subject: hi\r\n\r\nGrüße, the whole body\r\n".encode()
QUOTED = b"Gr=C3=BC=C3=9Fe, the whole body\r\n"


@pytest.mark.parametrize("then_offers_8bitmime", [False, True])
@pytest.mark.parametrize("stage", ["RSET", "MAIL"])
def test_content_is_whole_though_it_was_converted_for_a_session_that_was_lost(
    peer: Peer, stage: str, then_offers_8bitmime: bool
) -> None:
    peer.extensions = ("PIPELINING", "SIZE")

    def hang_up(_command: Command) -> object:
        if then_offers_8bitmime:
            peer.extensions += ("8BITMIME",)
        return DROP

    if stage == "RSET":
        peer.recipient("u0@b.test", "550 5.1.1 nobody").once("RSET", hang_up)
    else:
        peer.once("MAIL", POLITE, hang_up)
    rig = Rig(peer)
    rig.queue.add_message(to("u0"), CONTENT)
    rig.queue.add_message(to("x")._replace(body="8BITMIME"), EIGHT_BIT)
    rig.restart()  # what is still in memory could be read any number of times
    [_, end] = rig.run(rig.queue.get_waiting())
    assert (end.attempt, end.kinds) == (1, ["delivered"])
    content = peer.message_to("x@b.test").content
    if then_offers_8bitmime:
        assert content == EIGHT_BIT
    else:
        assert content.endswith(QUOTED)


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("MAIL", "501 5.5.4 syntax"),
        ("RCPT", "503 5.5.1 order"),
        ("DATA", "250 2.0.0 eh"),
        (".", "500 5.5.2 what"),
    ],
)
def test_a_session_that_lost_step_is_not_used_again(peer: Peer, stage: str, reply: str) -> None:
    peer.once(stage, reply)
    ends = Rig(peer).relay(*many(2))
    assert [end.kinds for end in ends] == [["deferred"], ["delivered"]]
    assert [m.session for m in peer.messages] == [2]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
def test_a_421_ends_the_session_and_the_next_message_gets_a_new_one(peer: Peer, stage: str) -> None:
    peer.once(stage, "421 4.3.2 enough")
    ends = Rig(peer).relay(*many(2))
    assert [end.kinds for end in ends] == [["deferred"], ["delivered"]]
    assert [m.session for m in peer.messages] == [2]


# -- the next host -----------------------------------------------------------------------------


def test_hosts_are_asked_in_the_order_of_preference(peer: Peer, second: Peer) -> None:
    Rig(peer, second).relay(*many(3))
    assert (len(peer.messages), second.connections) == (3, 0)


@pytest.mark.parametrize(
    ("stage", "rude", "is_bad"),
    [
        ("CONNECT", "421 4.3.2 busy", True),
        ("CONNECT", "450 not now", True),
        ("CONNECT", DROP, True),
        ("CONNECT", b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
        ("CONNECT", "554 5.7.1 not you", False),
        ("EHLO", "421 4.3.2 busy", True),
        ("EHLO", "451 later", True),
        ("EHLO", DROP, True),
        ("EHLO", RESET, True),
    ],
)
def test_a_host_that_does_not_greet_is_passed_over(
    peer: Peer, second: Peer, stage: str, rude: object, is_bad: bool
) -> None:
    peer.always(stage, rude)
    rig = Rig(peer, second)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["delivered"]
    assert end.told[0].exchange == "mx1.test"
    assert rig.is_bad(peer) is is_bad


def test_a_host_that_refuses_connections_is_marked_and_left_alone(second: Peer) -> None:
    dead = nobody_listens()
    rig = Rig(dead, second)
    assert rig.relay(to("x"))[0].kinds == ["delivered"]
    assert rig.is_bad(dead)
    with Peer(port=dead[1]) as revived:
        rig.relay(to("y"))
        assert revived.connections == 0, "its mark has not ended"
        rig.clock.advance(30)
        rig.relay(to("z"))
        assert revived.arrived() == {"z@b.test": 1}


def test_a_host_that_says_nothing_is_passed_over_in_time(peer: Peer, second: Peer) -> None:
    peer.always("CONNECT", STALL)
    rig = Rig(peer, second, timeouts_s={**RelayerSettings().timeouts_s, "banner": 0.05})
    assert rig.relay(to("x"))[0].kinds == ["delivered"]
    assert rig.is_bad(peer)


def test_a_slow_greeting_costs_less_while_others_are_left_to_ask(
    peer: Peer, second: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HASTY_BANNER_S", 0.05)
    peer.always("CONNECT", STALL)
    assert Rig(peer, second).relay(to("x"))[0].kinds == ["delivered"]


def test_the_last_host_has_all_the_time_for_its_greeting(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HASTY_BANNER_S", 0.05)
    peer.always("CONNECT", (Pause(0.2), POLITE))
    assert Rig(nobody_listens(), peer).relay(to("x"))[0].kinds == ["delivered"]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
def test_a_refusal_that_names_our_address_is_no_word_on_the_mail(peer: Peer, stage: str) -> None:
    peer.always(stage, "554 5.7.1 client host [127.0.0.1] blocked using rbl.test")
    rig = Rig(peer)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["deferred"]
    assert end.settled.report is None
    assert "blocked using rbl.test" in end.replies[0]
    assert not rig.is_bad(peer)


def test_our_address_is_also_what_the_host_calls_us_by(peer: Peer) -> None:
    """As when it is translated on the way."""
    peer.always("EHLO", "250-mx.test hello gw.test [203.0.113.9]\n250 DSN")
    peer.always("RCPT", "550 5.7.1 203.0.113.9 is on a list")
    assert Rig(peer).relay(to("x"))[0].kinds == ["deferred"]


def test_a_refusal_that_names_another_address_is_one(peer: Peer) -> None:
    peer.always("RCPT", "550 5.7.1 127.0.0.11 is on a list")
    assert Rig(peer).relay(to("x"))[0].kinds == ["failed"]


def test_hosts_passed_over_use_up_no_session(peer: Peer, second: Peer) -> None:
    dead = [nobody_listens() for _ in range(3)]
    peer.always("CONNECT", "421 busy")
    [end] = Rig(*dead, peer, second, max_sessions=1).relay(to("x"))
    assert end.kinds == ["delivered"]


def test_no_host_at_all_is_no_connection() -> None:
    rig = Rig(nobody_listens(), nobody_listens())
    [end] = rig.relay(to("x", "y"))
    assert end.kinds == ["deferred", "deferred"]
    assert end.told[0].stage == "connect"
    assert "connection refused" in end.replies[0]
    assert len(rig.unreached) == 1


def test_a_permanent_banner_only_defers(peer: Peer) -> None:
    """It is about us or the host; a sender must not get it as a word on the recipient."""
    peer.always("CONNECT", "554 5.7.1 not you")
    rig = Rig(peer)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["deferred"]
    assert len(rig.unreached) == 1
    assert not rig.is_bad(peer)


@pytest.mark.parametrize(
    ("stage", "rude"),
    [
        ("MAIL", "451 4.3.0 later"),
        ("MAIL", "421 4.3.2 going"),
        ("MAIL", DROP),
        ("RCPT", "450 4.2.1 greylisted"),
        ("RCPT", DROP),
        ("DATA", "451 4.3.0 later"),
        ("DATA", DROP),
        ("DATA", "250 2.0.0 what?"),
        ("CONTENT", DROP),
        (".", "451 4.3.0 later"),
    ],
)
def test_a_temporary_trouble_asks_the_next_host(
    peer: Peer, second: Peer, stage: str, rude: object
) -> None:
    peer.always(stage, rude)
    # More than the sockets hold, so that a connection cut in the content is seen there.
    rig = Rig(peer, second)
    content = b"x" * 76 + b"\r\n"
    [end] = rig.relay(to("x"), content=content * (200_000 if stage == "CONTENT" else 1))
    assert end.kinds == ["delivered"]
    assert end.told[0].exchange == "mx1.test"
    assert peer.arrived() + second.arrived() == {"x@b.test": 1}
    # It was reached, and spoke of this message: that is no reason to leave it alone.
    assert not rig.is_bad(peer)


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "."])
def test_a_permanent_no_is_final(peer: Peer, second: Peer, stage: str) -> None:
    peer.always(stage, "550 5.7.1 no")
    [end] = Rig(peer, second).relay(to("x"))
    assert end.kinds == ["failed"]
    assert second.connections == 0


def test_only_those_who_were_put_off_are_asked_about_at_the_next_host(
    peer: Peer, second: Peer
) -> None:
    peer.recipient("no@b.test", "550 5.1.1 nobody").recipient("later@b.test", "450 4.2.1 grey")
    [end] = Rig(peer, second).relay(to("yes", "no", "later"))
    assert end.kinds == ["delivered", "failed", "delivered"]
    assert peer.arrived() == {"yes@b.test": 1}
    assert second.arrived() == {"later@b.test": 1}


def test_so_many_hosts_may_put_the_same_message_off() -> None:
    peers = [Peer().start().always("RCPT", f"450 4.2.{n} later") for n in range(4)]
    [end] = Rig(*peers, max_sessions=2).relay(to("x"))
    assert [peer.connections for peer in peers] == [1, 1, 0, 0]
    assert end.replies == ["450 4.2.1 later"]
    for peer in peers:
        peer.stop()


@pytest.mark.parametrize("rude", [DROP, RESET], ids=["closed", "reset"])
def test_what_is_in_doubt_goes_to_no_other_host(peer: Peer, second: Peer, rude: object) -> None:
    """It may have been taken: another host would surely deliver it a second time."""
    peer.always(".", rude)
    rig = Rig(peer, second)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["deferred"]
    assert end.told[0].in_doubt
    assert second.connections == 0
    assert len(rig.queue) == 1


def test_what_is_in_doubt_over_a_kept_session_is_not_sent_again(peer: Peer) -> None:
    peer.once(".", POLITE, DROP)
    ends = Rig(peer).relay(*many(2))
    assert [end.kinds for end in ends] == [["delivered"], ["deferred"]]
    assert ends[1].told[0].in_doubt
    assert peer.connections == 1


def test_a_no_answer_to_the_dot_in_time_is_in_doubt(peer: Peer, second: Peer) -> None:
    peer.always(".", STALL)
    rig = Rig(peer, second, timeouts_s={**RelayerSettings().timeouts_s, "dot": 0.05})
    [end] = rig.relay(to("x"))
    assert end.told[0].in_doubt
    assert second.connections == 0


def test_a_reply_to_mail_takes_the_mark_away(peer: Peer) -> None:
    rig = Rig(peer)
    rig.calculator.mark_address_bad(peer.host, "", peer.port)
    peer.always("MAIL", "550 5.7.1 no")
    rig.relay(to("x"))
    assert not rig.is_bad(peer)


def test_the_session_at_hand_is_preferred_among_equal_hosts(peer: Peer, second: Peer) -> None:
    rig = Rig(peer, second, equal=True)
    rig.relay(*many(20))
    assert sorted([len(peer.messages), len(second.messages)]) == [0, 20]
    assert peer.connections + second.connections == 1


def test_the_session_at_hand_is_preferred_among_more_addresses_than_an_attempt_tries() -> None:
    with Peer("0.0.0.0") as peer:
        rig = Rig(peer)
        addresses = tuple(f"127.0.0.{n}" for n in range(1, 25))
        rig.hosts.exchanges = (Exchange(0, "mx.test", addresses, peer.port),)
        rig.relay(*many(20))
        assert (len(peer.messages), peer.connections) == (20, 1)


def test_a_session_with_an_address_that_is_no_longer_an_exchanges_is_left(
    peer: Peer, second: Peer
) -> None:
    rig = Rig(peer)

    def move(_command: Command) -> object:
        rig.hosts.exchanges = (Exchange(0, "mx0.test", (second.host,), second.port),)
        return POLITE

    peer.once(".", move)
    rig.relay(*many(2))
    assert peer.arrived() == {"u0@b.test": 1}
    assert second.arrived() == {"u1@b.test": 1}


def test_a_session_with_an_equal_host_that_is_marked_meanwhile_is_left(
    peer: Peer, second: Peer
) -> None:
    rig = Rig(peer, second, equal=True)
    relayer = rig.new_relayer()
    one, other = rig.add(*many(2))
    relayer.relay(one)
    first, next_one = (peer, second) if peer.messages else (second, peer)
    rig.calculator.mark_address_bad(first.host, "", first.port)
    relayer.relay(other)
    assert first.arrived() == {"u0@b.test": 1}
    assert next_one.arrived() == {"u1@b.test": 1}


def test_a_session_with_a_less_preferred_host_is_left_when_the_better_is_back(
    second: Peer,
) -> None:
    dead = nobody_listens()
    rig = Rig(dead, second)
    rig.calculator.mark_address_bad(dead[0], "", dead[1])

    def end_of_the_mark(_command: Command) -> object:
        rig.clock.advance(30)
        return POLITE

    second.always(".", end_of_the_mark)
    with Peer(port=dead[1]) as better:
        rig.relay(*many(2))
        assert second.arrived() == {"u0@b.test": 1}
        assert better.arrived() == {"u1@b.test": 1}


# -- what is in doubt, in the attempts that follow -------------------------------------------------


def in_doubt(rig: Rig) -> Delivery:
    """A delivery that the first attempt left in doubt, due again."""
    [end] = rig.relay(to("x", "y"))
    assert [end.told[n].in_doubt for n in (0, 1)] == [True, True]
    return due(rig)


def due(rig: Rig) -> Delivery:
    rig.clock.advance(rig.queue.next_due_at - rig.clock.now)
    [delivery] = rig.queue.get_waiting()
    return delivery


def test_what_was_in_doubt_goes_to_the_same_host_first(peer: Peer, second: Peer) -> None:
    """Though that host is marked bad by now, and the other is preferred."""
    second.once(".", DROP)
    rig = Rig(peer, second)
    peer.once("CONNECT", "421 busy")
    delivery = in_doubt(rig)
    rig.calculator.mark_address_bad(second.host, "", second.port)
    [end] = rig.run([delivery])
    assert end.kinds == ["delivered"] * 2
    assert second.arrived() == {"x@b.test": 1, "y@b.test": 1}
    assert peer.messages == []


@pytest.mark.parametrize("rude", ["refuses", "421", "in doubt again"])
def test_the_next_host_is_asked_once_the_same_one_was_tried_in_vain(
    peer: Peer, second: Peer, rude: str
) -> None:
    peer.once(".", DROP)
    rig = Rig(peer, second)
    delivery = in_doubt(rig)
    if rude == "refuses":
        peer.stop()
    elif rude == "421":
        peer.once("CONNECT", "421 4.3.2 busy")
    else:
        peer.once(".", DROP)
    [end] = rig.run([delivery])
    assert end.kinds == ["delivered"] * 2
    assert second.arrived() == {"x@b.test": 1, "y@b.test": 1}


def test_doubt_at_the_next_host_ends_the_attempt_and_moves_to_it(peer: Peer, second: Peer) -> None:
    with Peer() as third:
        peer.always(".", DROP)
        second.once(".", DROP)
        rig = Rig(peer, second, third, max_sessions=5)
        [end] = rig.run([in_doubt(rig)])
        assert [end.told[n].in_doubt for n in (0, 1)] == [True, True]
        assert third.connections == 0
        [end] = rig.run([due(rig)])
        assert end.told[0].exchange == "mx1.test"
        assert end.kinds == ["delivered"] * 2
        assert third.connections == 0


# -- what the log knows of doubt before a final dot leaves ----------------------------------------


class NotingStore(MemoryStore):
    """Remembers whom each note named; fails, or breaks, where a test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.noted: list[str] = []
        self.error = error

    def note(self, message_id: int, state: State) -> None:
        if self.error is not None:
            raise self.error
        super().note(message_id, state)
        self.noted += [part.doubt.host.exchange for part in state.open if part.doubt is not None]


def test_the_log_has_it_in_doubt_when_the_dot_arrives(peer: Peer) -> None:
    rig = Rig(peer)
    [delivery] = rig.add(to("x"))
    then: list[State | None] = []

    def look(_command: Command) -> object:
        then.append(rig.store.state(delivery.message_id))
        return POLITE

    peer.once(".", look)
    [end] = rig.run([delivery])
    assert end.kinds == ["delivered"]
    [state] = then
    assert state is not None
    [part] = state.open
    assert part.doubt == Doubt(Host("mx0.test", peer.host, peer.port), rig.clock.now, told=False)
    assert part.due_at == rig.clock.now + RETRY.in_doubt_wait_s


def test_one_note_is_enough_for_each_host(peer: Peer, second: Peer) -> None:
    store = NotingStore()
    peer.recipient("later@b.test", "450 4.2.1 grey")
    rig = Rig(peer, second, store=store, recipients_per_message=2)
    [end] = rig.relay(to("a", "b", "c", "later", "d"))
    assert end.kinds == ["delivered"] * 5
    assert second.arrived() == {"later@b.test": 1}
    assert store.noted == ["mx0.test", "mx1.test"]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_nothing_is_noted_of_what_is_refused_before_its_content(peer: Peer, stage: str) -> None:
    store = NotingStore()
    peer.always(stage, "451 4.3.0 later")
    Rig(peer, store=store).relay(to("x", "y"))
    assert store.noted == []


def test_what_cannot_be_noted_is_not_sent(peer: Peer) -> None:
    store = NotingStore(StoreFailed("no room"))
    rig = Rig(peer, store=store)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["deferred"]
    assert end.replies == ["451 4.3.0 our spool failed: no room"]
    assert not end.told[0].in_doubt
    assert verbs(peer)[-1] == "DATA", "the dot was sent"
    assert not rig.is_bad(peer)
    store.error = None
    [end] = rig.run([due(rig)])
    assert end.kinds == ["delivered"]
    assert peer.arrived() == {"x@b.test": 1}


def test_a_dot_that_never_left_leaves_no_doubt(peer: Peer) -> None:
    store = NotingStore()
    peer.once("DATA", ("354 go on", Slow(60, 1)))
    timeouts_s = {**RelayerSettings().timeouts_s, "content": 0.2}
    rig = Rig(peer, store=store, timeouts_s=timeouts_s)
    [end] = rig.relay(to("x"), content=b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 200_000)
    assert end.told[0].stage == "content"
    assert not end.told[0].in_doubt
    assert due(rig).doubt is None


def test_a_bug_between_note_and_dot_leaves_no_doubt(peer: Peer) -> None:
    """It comes while the envelope is read that is to go along with the dot."""

    class Breaks(NotingStore):
        def message(self, message_id: int) -> Message:
            if message_id == last.message_id:
                raise Bug
            return super().message(message_id)

    store = Breaks()
    rig = Rig(peer, limit=1, store=store)
    *_, last = rig.add(*many(3))
    rig.restart()
    with pytest.raises(Bug):
        rig.run(rig.queue.get_waiting())
    assert [end.kinds for end in rig.ends] == [["delivered"], ["deferred"]]
    assert store.noted == ["mx0.test"] * 2
    assert "u1@b.test" not in peer.arrived()
    states = [state for batch in store.load() for _, state in batch]
    assert [part.doubt for state in states for part in state.open] == [None, None]


# -- what this host is not capable of ----------------------------------------------------------


SMALL, LARGE = ("PIPELINING", "SIZE 10"), ("PIPELINING", "SIZE 1000")


def test_a_message_one_host_is_not_capable_of_goes_to_another(peer: Peer, second: Peer) -> None:
    peer.extensions, second.extensions = SMALL, LARGE
    [end] = Rig(peer, second, max_sessions=1).relay(to("x"))
    assert end.kinds == ["delivered"]
    assert second.arrived() == {"x@b.test": 1}


def test_a_message_no_host_is_capable_of_fails(peer: Peer, second: Peer) -> None:
    peer.extensions = second.extensions = SMALL
    rig = Rig(peer, second)
    [end] = rig.relay(to("x"))
    assert end.kinds == ["failed"]
    assert "552 5.3.4" in end.replies[0]
    assert end.settled.report is not None
    assert not rig.is_bad(peer)


def test_a_message_waits_while_a_capable_host_may_be_out_of_reach(peer: Peer) -> None:
    peer.extensions = SMALL
    for places in ((peer, nobody_listens()), (nobody_listens(), peer)):
        [end] = Rig(*places).relay(to("x"))
        assert end.kinds == ["deferred"]
        assert "5.3.4" in end.replies[0]


def test_what_is_no_address_fails_at_the_first_host(peer: Peer, second: Peer) -> None:
    evil = envelope("x@b.test>\r\nRCPT TO:<evil@b.test", "y@b.test")
    [end] = Rig(peer, second).relay(evil)
    assert end.kinds == ["failed", "delivered"]
    assert second.connections == 0
    [end] = Rig(nobody_listens(), peer).relay(envelope("x@b.test", reverse_path="a@b.test\r\n"))
    assert end.kinds == ["failed"]
    assert end.replies[0].startswith("553 5.1.7")


def test_being_put_off_outweighs_what_another_is_not_capable_of(peer: Peer, second: Peer) -> None:
    peer.always("RCPT", "450 4.2.1 greylisted")
    second.extensions = SMALL
    [end] = Rig(peer, second).relay(to("x"))
    assert end.replies == ["450 4.2.1 greylisted"]
    assert end.kinds == ["deferred"]


# -- the next envelope along with the final dot ------------------------------------------------


def test_the_next_envelope_goes_along_with_the_final_dot(peer: Peer) -> None:
    """From the second message on: the first one shows that its dot is answered once."""
    ends = Rig(peer, limit=1).relay(*many(4))
    assert [end.kinds for end in ends] == [["delivered"]] * 4
    assert [m.recipients for m in peer.messages] == [(f"u{n}@b.test",) for n in range(4)]
    assert peer.connections == 1
    behind = [message.behind.split(b" ")[0] for message in peer.messages]
    assert behind == [b"", b"MAIL", b"MAIL", b""]


@pytest.mark.parametrize(
    "settings",
    [
        {"pipelining": False},
        {"rset_mode": "always"},
        {"max_messages_per_connection": 2},
        {"connection_lifetime_s": 0.0},
        {"limit": 20},
    ],
)
def test_nothing_goes_along_where_it_must_not(peer: Peer, settings: dict[str, object]) -> None:
    rig = Rig(peer, **{"limit": 1, **settings})
    assert [end.kinds for end in rig.relay(*many(4))] == [["delivered"]] * 4
    assert {message.behind for message in peer.messages} == {b""}


def test_nothing_goes_along_with_what_may_need_another_transaction(peer: Peer) -> None:
    peer.recipient("y@b.test", "452 4.5.3 too many", POLITE)
    ends = Rig(peer, limit=1).relay(to("a"), to("x", "y"), to("b"))
    assert [end.kinds for end in ends] == [["delivered"], ["delivered"] * 2, ["delivered"]]
    assert [m.behind.split(b"\r\n")[0][:4] for m in peer.messages] == [b"", b"", b"MAIL", b""]


@pytest.mark.parametrize("reply", ["451 4.3.0 later", "554 5.7.1 spam"])
def test_a_refused_message_does_not_spoil_the_one_that_went_along(peer: Peer, reply: str) -> None:
    peer.once(".", POLITE, reply)
    ends = Rig(peer, limit=1).relay(*many(4))
    kinds = [end.kinds for end in ends]
    assert kinds == [["delivered"], [KINDS[reply[0]]], ["delivered"], ["delivered"]]
    assert [m.session for m in peer.messages] == [1, 1, 1]


@pytest.mark.parametrize("rude", [DROP, RESET, STALL], ids=["closed", "reset", "silent"])
def test_only_the_message_whose_dot_was_sent_is_in_doubt(peer: Peer, rude: object) -> None:
    peer.once(".", POLITE, rude)
    rig = Rig(peer, limit=1, timeouts_s={**RelayerSettings().timeouts_s, "dot": 0.2})
    ends = rig.relay(*many(4))
    assert [end.told[0].in_doubt for end in ends] == [False, True, False, False]
    assert [end.kinds[0] for end in ends] == ["delivered", "deferred", "delivered", "delivered"]
    assert [end.attempt for end in ends] == [1] * 4


@pytest.mark.parametrize(
    "after",
    [("421 4.3.2 going", DROP), (DROP,)],
    ids=["421", "closed"],
)
def test_what_went_along_in_vain_goes_by_a_new_session_at_no_charge(
    peer: Peer, after: tuple[object, ...]
) -> None:
    peer.once(".", POLITE, (POLITE, *after))
    ends = Rig(peer, limit=1, max_sessions=1).relay(*many(3))
    assert [(end.attempt, end.kinds) for end in ends] == [(1, ["delivered"])] * 3
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(3)}


def test_a_reply_too_many_is_never_taken_for_a_delivery(peer: Peer) -> None:
    peer.once(".", POLITE, (POLITE, "250 2.0.0 again"))
    ends = Rig(peer, limit=1).relay(*many(3))
    assert ends[2].kinds == ["deferred"]
    assert "u2@b.test" not in peer.arrived()


def test_a_dot_answered_twice_with_no_fails_nobody_else(peer: Peer) -> None:
    peer.once(".", POLITE, "554 5.7.1 spam\n554 5.7.1 spam")
    ends = Rig(peer, limit=1).relay(*many(3))
    assert [end.kinds for end in ends] == [["delivered"], ["failed"], ["deferred"]]


class LosesOne(MemoryStore):
    """The second reading of `target` fails."""

    target = 0
    readings = 0

    def message(self, message_id: int) -> Message:
        if message_id == self.target:
            self.readings += 1
            if self.readings == 2:
                raise StoreFailed("too many open files")
        return super().message(message_id)


@pytest.mark.parametrize("count", [3, 5])
def test_what_went_along_for_one_message_carries_no_other(peer: Peer, count: int) -> None:
    """Nor is its session kept for anything else."""
    store = LosesOne()
    rig = Rig(peer, store=store, limit=1, idle_timeout_s=10.0 if count == 3 else 0.0)
    rig.add(*many(count))
    rig.restart(resident_bytes=0)
    deliveries = rig.queue.get_waiting()
    store.target = deliveries[2].message_id
    started = time.monotonic()
    ends = rig.run(deliveries)
    assert time.monotonic() - started < 5.0
    kinds = [["delivered"]] * 2 + [["deferred"]] + [["delivered"]] * (count - 3)
    assert [end.kinds for end in ends] == kinds
    assert peer.messages[1].behind.startswith(b"MAIL"), "nothing went along"
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(count) if n != 2}


def test_nothing_goes_along_for_what_is_in_doubt(peer: Peer, second: Peer) -> None:
    """It goes to the host it is in doubt at, whatever session there is."""
    second.once(".", DROP)
    rig = Rig(second, limit=1)
    doubtful = in_doubt(rig)
    rig.hosts.exchanges = (
        Exchange(0, "mx0.test", (peer.host,), peer.port),
        Exchange(1, "mx1.test", (second.host,), second.port),
    )
    first, *others = rig.add(*many(2))
    rig.run([first, *others, doubtful])
    assert [message.behind for message in peer.messages] == [b"", b""]
    assert second.arrived() == {"x@b.test": 1, "y@b.test": 1}


@pytest.mark.parametrize(
    ("stage", "reply", "kind"),
    [
        ("MAIL", "451 4.3.0 later", "deferred"),
        ("MAIL", "550 5.7.1 no", "failed"),
        ("RCPT", "550 5.1.1 nobody", "failed"),
        ("DATA", "451 4.3.0 later", "deferred"),
    ],
)
def test_what_went_along_is_judged_like_any_other(
    peer: Peer, stage: str, reply: str, kind: str
) -> None:
    peer.once(stage, POLITE, POLITE, reply)
    ends = Rig(peer, limit=1).relay(*many(4))
    assert [end.kinds for end in ends] == [["delivered"]] * 2 + [[kind], ["delivered"]]


def test_a_stopped_relayer_gives_back_what_it_had_taken_early(peer: Peer) -> None:
    rig = Rig(peer, limit=1)
    deliveries = rig.add(*many(4))
    rig.site.ready.extend(deliveries[1:])
    rig.site.relayers = 1
    relayer = rig.new_relayer()

    def stop(_command: Command) -> object:
        relayer.stopping = True
        return POLITE

    peer.once(".", POLITE, stop)
    relayer.run(deliveries[0])
    assert [end.kinds for end in rig.ends] == [["delivered"]] * 2
    assert list(rig.site.ready) == deliveries[3:]
    [given_back] = rig.queue.get_waiting()
    assert given_back.message_id == deliveries[2].message_id
    assert "QUIT" not in verbs(peer), "it might have been read as content"


def test_what_is_taken_early_is_known_to_be_the_relayers_until_it_is_given_back(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(peer, limit=1)
    deliveries = rig.add(*many(3))
    rig.site.ready.extend(deliveries[1:])
    rig.site.relayers = 1
    relayer = rig.new_relayer()
    known: list[Delivery | None] = []

    def stop(_command: Command) -> object:
        relayer.stopping = True
        known.append(relayer.upcoming)
        return POLITE

    def set_waiting(delivery: Delivery) -> None:
        known.append(relayer.upcoming)

    peer.once(".", POLITE, stop)
    monkeypatch.setattr(rig.queue, "set_waiting", set_waiting)
    relayer.run(deliveries[0])
    assert known == [deliveries[2]] * 2
    assert relayer.upcoming is None


def test_nothing_is_taken_early_where_another_session_may_be_opened(peer: Peer) -> None:
    ready: list[int] = []
    rig = Rig(peer)
    peer.always(".", lambda _: (ready.append(len(rig.site.ready)), POLITE)[1])
    rig.relay(*many(4))
    assert ready == [3, 2, 1, 0]


# -- many recipients ------------------------------------------------------------------------------


def test_recipients_go_in_batches_over_one_session(peer: Peer) -> None:
    names = [f"u{n}" for n in range(7)]
    [end] = Rig(peer, recipients_per_message=3).relay(to(*names))
    assert end.kinds == ["delivered"] * 7
    assert [len(m.recipients) for m in peer.messages] == [3, 3, 1]
    assert peer.connections == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["pipelined", "in lockstep"])
def test_too_many_at_once_go_on_at_once_in_the_next_transaction(
    peer: Peer, extensions: tuple[str, ...]
) -> None:
    peer.extensions = extensions
    too_many = "452 4.5.3 too many recipients"
    peer.once("RCPT", POLITE, POLITE, too_many, too_many, too_many)
    peer.once("RCPT", POLITE, POLITE, too_many)
    [end] = Rig(peer).relay(to("a", "b", "c", "d", "e"))
    assert end.kinds == ["delivered"] * 5
    assert [m.recipients for m in peer.messages] == [
        ("a@b.test", "b@b.test"),
        ("c@b.test", "d@b.test"),
        ("e@b.test",),
    ]
    assert peer.connections == 1


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["pipelined", "in lockstep"])
def test_those_behind_a_421_go_on_at_once_over_another_session(
    peer: Peer, extensions: tuple[str, ...]
) -> None:
    """As when a server has heard of enough recipients that it does not know."""
    peer.extensions = extensions
    nobody, enough = "550 5.1.1 nobody", ("421 4.7.0 too many errors", DROP)
    peer.once("RCPT", POLITE, nobody, enough).once("RCPT", POLITE, nobody, enough)
    [end] = Rig(peer).relay(to("a", "b", "c", "d", "e"))
    assert end.kinds == ["delivered", "failed", "failed", "delivered", "delivered"]
    assert peer.arrived() == {"a@b.test": 1, "d@b.test": 1, "e@b.test": 1}
    assert peer.connections == 3


def test_those_behind_a_421_that_was_the_first_answer_wait(peer: Peer) -> None:
    peer.always("RCPT", ("421 4.7.0 enough of you", DROP))
    [end] = Rig(peer).relay(to("a", "b"))
    assert end.replies == ["421 4.7.0 enough of you"] * 2
    assert peer.connections == 1


def test_a_session_of_refusals_is_given_up_before_the_server_slows_down(peer: Peer) -> None:
    peer.always("RCPT", "550 5.1.1 nobody")
    Rig(peer).relay(*many(9))
    peer.wait_for(lambda peer: peer.open == 0)
    # Each costs the session two: the RCPT, and the DATA that went along.
    assert [peer.verbs(session).count("MAIL") for session in (1, 2, 3)] == [4, 4, 1]


def test_a_message_taken_makes_up_for_refusals(peer: Peer) -> None:
    peer.recipient("u0@b.test", "550 5.1.1 nobody")
    letters = [to("u0"), to("u0"), to("u0"), to("x")] * 3
    Rig(peer).relay(*letters)
    assert len(peer.messages) == 3
    assert peer.connections == 1


def test_too_many_from_the_first_on_is_a_deferral_like_any_other(peer: Peer) -> None:
    peer.always("RCPT", "452 4.5.3 too many recipients")
    [end] = Rig(peer).relay(to("a", "b"))
    assert end.kinds == ["deferred", "deferred"]
    assert verbs(peer).count("MAIL") == 1


def test_a_host_lost_between_two_batches_keeps_what_is_known(peer: Peer, second: Peer) -> None:
    peer.once("MAIL", POLITE, DROP).once("CONNECT", POLITE, "421 4.3.2 going")
    rig = Rig(peer, second, recipients_per_message=2)
    [end] = rig.relay(to("a", "b", "c", "d"))
    assert end.kinds == ["delivered"] * 4
    assert peer.arrived() == {"a@b.test": 1, "b@b.test": 1}
    assert second.arrived() == {"c@b.test": 1, "d@b.test": 1}


def test_recipients_of_a_lost_host_wait_with_what_it_said_last(peer: Peer) -> None:
    peer.once("MAIL", POLITE, DROP).once("CONNECT", POLITE, "421 4.3.2 going")
    [end] = Rig(peer, recipients_per_message=2).relay(to("a", "b", "c", "d"))
    assert end.kinds == ["delivered"] * 2 + ["deferred"] * 2
    assert end.replies[2:] == ["421 4.3.2 going"] * 2


def test_a_batch_in_doubt_does_not_spoil_the_others(peer: Peer, second: Peer) -> None:
    peer.once(".", POLITE, DROP)
    [end] = Rig(peer, second, recipients_per_message=2).relay(to("a", "b", "c", "d", "e"))
    assert end.kinds == ["delivered", "delivered", "deferred", "deferred", "delivered"]
    assert [end.told[n].in_doubt for n in range(5)] == [False, False, True, True, False]
    assert second.connections == 0


# -- what goes wrong on our side ----------------------------------------------------------------


class Damaged(MemoryStore):
    """Gives out half of each content, then fails; or fails at once."""

    unreadable: bool = False
    error: type[StoreFailed] = StoreFailed

    def message(self, message_id: int) -> Message:
        if self.unreadable:
            raise self.error("bytes flipped")
        return super().message(message_id)

    def content(self, message_id: int) -> Iterator[bytes]:
        for piece in super().content(message_id):
            yield piece[: len(piece) // 2]
        raise self.error("bytes flipped")


def _read_from(store: MemoryStore, *peers: Peer) -> Rig:
    """A rig with one message, which is read back from `store`."""
    rig = Rig(*peers, store=store)
    rig.add(envelope("x@b.test"))
    rig.restart(resident_bytes=0)
    return rig


def test_unreadable_content_breaks_off_without_a_final_dot(peer: Peer) -> None:
    rig = _read_from(Damaged(), peer)
    [end] = rig.run(rig.queue.get_waiting())
    assert end.kinds == ["deferred"]
    assert "bytes flipped" in end.replies[0]
    assert not end.told[0].in_doubt
    assert verbs(peer)[-1] == "DATA", "half of it was ended as if it were the whole"
    assert peer.messages == []


def test_an_unreadable_message_is_deferred_without_a_connection(peer: Peer) -> None:
    store = Damaged()
    rig = _read_from(store, peer)
    store.unreadable = True
    [end] = rig.run(rig.queue.get_waiting())
    assert end.kinds == ["deferred"]
    assert peer.connections == 0
    assert rig.unreached == [], "this is not the host's fault"


@pytest.mark.parametrize("unreadable", [False, True], ids=["content", "envelope"])
def test_what_is_damaged_is_offered_to_one_host_at_most_and_held(
    unreadable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = Damaged()
    with Peer() as first, Peer() as second:
        rig = _read_from(store, first, second)
        store.unreadable, store.error = unreadable, StoreDamaged
        [delivery] = rig.queue.get_waiting()
        [end] = rig.run([delivery])
        assert end.told[0].hold == "bytes flipped"
        [part] = end.settled.settlement.remaining
        assert part.held == "bytes flipped"
        assert rig.queue.get_held() == [delivery.message_id]
        assert (first.messages, second.connections) == ([], 0)
    assert "held: bytes flipped" in caplog.text


class Bug(Exception):
    """Of ours."""


def test_a_bug_ends_the_relayer_and_defers_its_delivery(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryStore):
        def content(self, message_id: int) -> Iterator[bytes]:
            yield b"half of it\r\n"
            raise Bug

    rig = _read_from(Broken(), peer)
    with pytest.raises(Bug):
        rig.run(rig.queue.get_waiting())
    assert rig.ends[0].kinds == ["deferred"]
    assert not rig.ends[0].told[0].in_doubt
    assert len(rig.done) == 1
    assert verbs(peer)[-1] == "DATA"
    assert peer.messages == []


def test_what_is_known_counts_when_a_bug_ends_the_relayer(peer: Peer) -> None:
    """Delivered is delivered: the others must not take it along into the next attempt."""
    reads: list[int] = []

    class BreaksLater(MemoryStore):
        def content(self, message_id: int) -> Iterator[bytes]:
            reads.append(message_id)
            if len(reads) > 1:
                raise Bug
            return super().content(message_id)

    store = BreaksLater()
    rig = Rig(peer, store=store, recipients_per_message=2)
    rig.add(to("a", "b", "c"))
    rig.restart(resident_bytes=0)
    with pytest.raises(Bug):
        rig.run(rig.queue.get_waiting())
    assert rig.ends[0].kinds == ["delivered", "delivered", "deferred"]
    assert peer.arrived() == {"a@b.test": 1, "b@b.test": 1}


def test_a_stopping_relayer_finishes_what_it_has_in_hand_and_takes_nothing_more(
    peer: Peer,
) -> None:
    rig = Rig(peer)
    first, second = rig.add(*many(2))
    rig.site.put(second)
    rig.site.relayers = 1
    relayer = rig.new_relayer()

    def stop(_command: Command) -> object:
        relayer.stopping = True
        return POLITE

    peer.always("RCPT", stop)
    relayer.run(first)
    assert [end.kinds for end in rig.ends] == [["delivered"]]
    assert list(rig.site.ready) == [second]
    assert verbs(peer)[-1] == "QUIT"


def test_no_host_is_blamed_for_what_fails_here(peer: Peer, second: Peer) -> None:
    """An address to connect from that this machine does not have."""
    rig = Rig(peer, second, source="192.0.2.1")
    [end] = rig.relay(to("x", "y"))
    assert end.kinds == ["deferred"] * 2
    assert end.replies[0].startswith("451 4.3.0 cannot connect from 192.0.2.1: cannot assign")
    assert not rig.is_bad(peer)
    assert rig.unreached == [], "and the site is not called dead"
    assert peer.connections + second.connections == 0


@pytest.mark.parametrize(
    ("mode", "told", "sessions"),
    [
        ("auto", ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", ".",
                  "MAIL", "RCPT", "DATA", ".", "QUIT"], 1),
        ("always", ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", ".",
                    "RSET", "MAIL", "RCPT", "DATA", ".", "QUIT"], 1),
        ("never", ["EHLO", "MAIL", "RCPT", "DATA", "QUIT",
                   "EHLO", "MAIL", "RCPT", "DATA", ".", "MAIL", "RCPT", "DATA", ".", "QUIT"], 2),
    ],
)  # fmt: skip
def test_rset_is_said_when_the_mode_says_so(
    peer: Peer, mode: str, told: list[str], sessions: int
) -> None:
    peer.recipient("u0@b.test", "550 5.1.1 nobody")
    ends = Rig(peer, rset_mode=mode).relay(*many(3))
    assert [end.kinds for end in ends] == [["failed"], ["delivered"], ["delivered"]]
    assert verbs(peer) == told
    assert peer.connections == sessions

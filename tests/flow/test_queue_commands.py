"""`gwrelay status`, `queue`, `explain`: beside a running gateway, and on its spool without one."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwrelay.message.envelope import message_name
from support.clients import submit
from support.commands import gwrelay, lines, listed, said
from support.dns_server import DNSServer
from support.gateway import Gateway, StartGateway
from support.peer import STALL, Peer

ZONE = {
    "dest.example": {"MX": ["10 mx.dest.example."]},
    "other.example": {"MX": ["10 mx.dest.example."]},
    "mx.dest.example": {"A": ["127.0.0.1"]},
}
GREYLISTED = "450 4.2.1 greylisted, come back"
CONTENT = b"Subject: bytes\r\n\r\n" + bytes(range(128, 256)) + b"\r\n.dot\r\n"


@pytest.fixture
def names() -> Iterator[DNSServer]:
    with DNSServer(ZONE) as running:
        yield running


@pytest.fixture
def gateway(start_gateway: StartGateway, names: DNSServer, peer: Peer) -> Gateway:
    """One whose next hop defers everything, for an hour, until it is told otherwise."""
    peer.always("RCPT", GREYLISTED)
    port = str(peer.port)
    where = ["--resolver", names.address, "--smtp-port", port, "--deny-host", "none"]
    return start_gateway(*where, "--retry", "1h", "--jitter", "0%", "--mx-bad-time", "1h..1h")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all who leave it as it was."""
    with Gateway(tmp_path_factory.mktemp("idle"), "--resolver", "127.0.0.1:9") as running:
        yield running
    assert "Traceback" not in running.log, running.log


def add(gateway: Gateway, *recipients: str, reverse_path: str = "me@a.example") -> str:
    """Submit a message and wait until all of its recipients were deferred; its id."""
    reply = submit(gateway.port, reverse_path, recipients, CONTENT, mail_parameters="BODY=8BITMIME")
    found = re.search(r"[0-9a-hjkmnp-tv-z]{13}", reply)
    assert found, reply
    gateway.wait_for("deferred", id=found[0], count=len(recipients))
    return found[0]


def states(gateway: Gateway, *words: str) -> dict[str, str]:
    return {one["destination"]: one["state"] for one in listed(*words, at=gateway)}


# -- looking --------------------------------------------------------------------------------


def test_status_fits_a_screen_and_has_all_of_it_in_json(gateway: Gateway) -> None:
    add(gateway, "u@dest.example", "u@other.example")
    told = said("status", at=gateway)
    assert (told["running"], told["loaded"], told["pid"]) == (True, True, gateway.process.popen.pid)
    assert (told["waiting"], told["relaying"], told["held"]) == (2, 0, 0)
    assert told["listening"] == [gateway.spec]
    assert (told["messages_done"], told["in_doubt"], told["dead_sites"]) == (0, 0, 0)
    assert (told["violations"], told["stuck"]) == (0, 0)
    assert 3500 < told["next_due_at"] - time.time() <= 3600
    assert told["uptime_s"] < 60
    screen = lines("status", at=gateway)
    assert len(screen) < 24
    assert any("2 deliveries, the next due in " in line for line in screen)
    assert {"self-check 0 violations", "stuck      0 things"} <= set(screen)


def test_a_list_has_a_line_for_each_delivery_with_the_remotes_words(gateway: Gateway) -> None:
    name = add(gateway, "u@dest.example", "v@dest.example", "u@other.example")
    first, second = listed(at=gateway)
    assert (first["id"], first["destination"], first["recipients"]) == (name, "dest.example", 2)
    assert (second["destination"], second["state"], second["attempts"]) == (
        "other.example",
        "waiting",
        1,
    )
    assert first["why"] == f"mx.dest.example[127.0.0.1]: {GREYLISTED}"
    assert 3500 < first["due_at"] - time.time() <= 3600
    heading, line, _ = lines("queue", "list", at=gateway)
    assert heading.startswith("ID ")
    assert line.startswith(f"{name}  waiting      2     1")
    assert line.endswith(f"dest.example  mx.dest.example[127.0.0.1]: {GREYLISTED}")
    assert len(lines("queue", "list", "--limit", "1", at=gateway)) == 2


def test_predicates_pick_deliveries_and_all_of_them_must_hold(gateway: Gateway) -> None:
    one = add(gateway, "Bob@dest.example", "u@other.example", reverse_path="me@A.example")
    two = add(gateway, "ann@dest.example", reverse_path="")

    def picked(*words: str) -> list[tuple[str, str]]:
        found = listed(*words, at=gateway, status=0 if words[-1] != "" else 1)
        return [(part["id"], part["destination"]) for part in found]

    assert picked("domain:DEST.example.") == [(one, "dest.example"), (two, "dest.example")]
    assert picked("from:me@a.example") == [(one, "dest.example"), (one, "other.example")]
    assert picked("from:@a.example", "domain:other.example") == [(one, "other.example")]
    assert picked("from:<>") == [(two, "dest.example")]
    assert picked("to:ann@DEST.example") == [(two, "dest.example")]
    assert picked("to:@dest.example", "to:Bob@dest.example") == [(one, "dest.example")]
    assert picked(one, "state:waiting", "domain:other.example") == [(one, "other.example")]
    for nothing in ("to:bob@dest.example", "state:held", "from:me@b.example", "0" * 13):
        assert listed(nothing, at=gateway, status=1) == []


def test_a_summary_has_those_with_most_mail_first(gateway: Gateway) -> None:
    add(gateway, "u@dest.example", "u@other.example")
    add(gateway, "v@other.example")
    told = said("queue", "summary", at=gateway)
    assert [(one["destination"], one["deliveries"]) for one in told["destinations"]] == [
        ("other.example", 2),
        ("dest.example", 1),
    ]
    assert told["destinations"][0]["waiting"] == 2
    *_, last = lines("queue", "summary", "--limit", "1", at=gateway)
    assert last == "and 1 destination more with 1 delivery"


def test_a_message_is_shown_and_its_content_is_given_back_byte_for_byte(gateway: Gateway) -> None:
    name = add(gateway, "u@dest.example")
    told = said("queue", "show", name, at=gateway)
    assert told["envelope"]["reverse_path"] == "me@a.example"
    [part] = told["parts"]
    assert (part["state"], part["recipients"], part["attempts"]) == (
        "waiting",
        ["u@dest.example"],
        1,
    )
    assert part["last_attempt"]["said"][0]["reply"] == GREYLISTED
    text = "\n".join(lines("queue", "show", name.upper(), at=gateway))
    assert f"said at rcpt: {GREYLISTED}" in text.lower()
    content = gwrelay("queue", "cat", name, at=gateway).stdout
    assert content.endswith(CONTENT)
    assert len(content) == told["size_bytes"]


def test_a_large_content_comes_whole(gateway: Gateway) -> None:
    large = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 64 * 1024 * 3 + b"\r\n"
    submit(gateway.port, "me@a.example", ["u@dest.example"], large)
    [event] = gateway.wait_for("deferred")
    assert gwrelay("queue", "cat", event["id"], at=gateway).stdout.endswith(large)


def test_a_next_hop_that_hangs_raises_an_alarm_until_it_goes_on(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once("RCPT", STALL)
    gateway = start_gateway("--smarthost", peer.spec, "--stuck-after", "1s")
    reply = submit(gateway.port, "me@a.example", ["u@dest.example"], CONTENT)
    [name] = re.findall(r"[0-9a-hjkmnp-tv-z]{13}", reply)
    stuck = (
        rf"ERROR .*stuck: message {name} to dest\.example, at .*, in rcpt; nothing has moved for"
    )
    gateway.wait_until(lambda: re.search(stuck, gateway.log), "an alarm")
    [event, *_] = gateway.wait_for("stuck")
    assert name in event["what"]
    assert said("status", at=gateway)["stuck"] == 1
    assert "stuck      1 thing, named in the log" in lines("status", at=gateway)
    explained = lines("explain", name, at=gateway)
    [part] = said("explain", name, at=gateway)["parts"]
    assert abs(part["stuck_since"] - event["since"]) < 1
    assert any(line.startswith("  stuck: nothing has moved since ") for line in explained)
    gateway.wait_until(lambda: len(re.findall(stuck, gateway.log)) == 2, "another alarm")
    peer.drop_sessions()
    gateway.wait_until(lambda: said("status", at=gateway)["stuck"] == 0, "the end of it")
    assert len(gateway.events("stuck")) >= 2


# -- changing -------------------------------------------------------------------------------


def test_what_is_held_stays_over_a_kill_and_goes_when_it_is_released(
    gateway: Gateway, peer: Peer
) -> None:
    name = add(gateway, "u@dest.example", "u@other.example")
    other = add(gateway, "v@dest.example")
    would = said("queue", "hold", "domain:dest.example", "--dry-run", at=gateway)
    assert (would["deliveries"], would["messages"], would["recipients"]) == (2, 2, 2)
    assert states(gateway, "state:waiting") == {
        "dest.example": "waiting",
        "other.example": "waiting",
    }
    [line] = lines("queue", "hold", "domain:dest.example", "--reason", "looks odd", at=gateway)
    assert line == "held: 2 deliveries, 2 messages, 2 recipients"
    gateway.kill()
    gateway.start()
    gateway.wait_until(lambda: said("status", at=gateway)["loaded"], "loading")
    assert states(gateway, name) == {"dest.example": "held", "other.example": "waiting"}
    [held] = listed(other, at=gateway)
    assert (held["state"], held["why"], held["due_at"]) == ("held", "looks odd", None)
    peer.always("RCPT", "250 2.1.5 fine")
    assert said("queue", "retry", "--all", at=gateway)["held"] == 2
    gateway.wait_for("delivered", recipient="u@other.example")
    assert not gateway.events("delivered", recipient="u@dest.example")
    assert said("queue", "release", "state:held", at=gateway)["deliveries"] == 2
    gateway.wait_for("delivered", count=3)
    assert sorted(peer.arrived().values()) == [1, 1, 1]
    assert listed(at=gateway) == []


def test_a_retry_is_an_attempt_now(gateway: Gateway, peer: Peer) -> None:
    name = add(gateway, "u@dest.example")
    peer.always("RCPT", "250 2.1.5 fine")
    assert said("queue", "retry", name, at=gateway)["deliveries"] == 1
    gateway.wait_for("delivered", id=name, attempt=2)


def test_what_is_deleted_is_gone_and_nobody_is_told(gateway: Gateway, peer: Peer) -> None:
    name = add(gateway, "u@dest.example", "u@other.example")
    kept = add(gateway, "v@dest.example", reverse_path="you@b.example")
    words = ["from:me@a.example", "domain:dest.example"]
    [line] = lines("queue", "delete", *words, at=gateway)
    assert line == "deleted: 1 delivery, 1 message, 1 recipient; nobody was told"
    assert states(gateway, name) == {"other.example": "waiting"}
    assert said("queue", "delete", name, at=gateway)["deliveries"] == 1
    lines("queue", "show", name, at=gateway, status=1)
    peer.always("RCPT", "250 2.1.5 fine")
    said("queue", "retry", "--all", at=gateway)
    gateway.wait_for("delivered", id=kept)
    assert peer.arrived() == {"v@dest.example": 1}
    assert not gateway.events("bounced")


def test_what_is_being_relayed_is_left_alone_and_said_to_be(gateway: Gateway, peer: Peer) -> None:
    peer.always("RCPT", STALL)
    submit(gateway.port, "me@a.example", ["u@dest.example"])
    gateway.wait_until(lambda: "RCPT" in peer.verbs(), "the attempt")
    for verb in ("hold", "delete", "retry"):
        told = said("queue", verb, "--all", at=gateway, status=1)
        assert (told["deliveries"], told["busy"]) == (0, 1)
    [one] = listed("state:relaying", at=gateway)
    assert one["why"] == "being relayed to mx.dest.example"
    assert "left alone: 1 delivery being relayed just now" in lines(
        "queue", "hold", "--all", at=gateway, status=1
    )


# -- explaining -----------------------------------------------------------------------------


def test_explain_says_what_was_said_and_when_it_goes_on(gateway: Gateway) -> None:
    name = add(gateway, "u@dest.example")
    [part] = said("explain", name, at=gateway)["parts"]
    assert part["blocker"]["kind"] == "retry"
    assert 3500 < part["blocker"]["until"] - time.time() <= 3600
    assert [(host["exchange"], host["place"]) for host in part["plan"]["hosts"]] == [
        ("mx.dest.example", 1)
    ]
    text = "\n".join(lines("explain", name, at=gateway))
    assert GREYLISTED in text
    assert "blocked by: retry since" in text
    assert "mx.dest.example[127.0.0.1]" in text


def test_explain_names_the_marks_when_every_host_is_out_of_reach(
    gateway: Gateway, peer: Peer
) -> None:
    peer.stop()
    gateway.wait_until(lambda: peer.open == 0, "the end of the sessions")
    before = time.time()
    add(gateway, "u@dest.example")
    submit(gateway.port, "me@a.example", ["asleep@dest.example"])
    gateway.wait_until(lambda: said("status", at=gateway)["waiting"] == 2, "both to wait")
    [asleep] = listed("to:asleep@dest.example", at=gateway)
    assert asleep["attempts"] == 0
    assert asleep["why"] == "no host of mx.dest.example can be reached"
    assert asleep["due_at"] > before + 3000
    told = said("explain", asleep["id"], at=gateway)["parts"][0]
    assert told["blocker"]["kind"] == "site dead"
    assert before <= told["blocker"]["since"] <= time.time()
    assert told["plan"]["hosts"][0]["bad_until"] == told["blocker"]["until"]
    assert said("status", at=gateway)["dead_sites"] == 1
    text = "\n".join(lines("explain", "dest.example", at=gateway))
    assert "2 deliveries: 2 waiting, 0 relaying, 0 held" in text
    assert "out of reach until" in text
    assert "marked bad since" in text


def test_explain_says_that_the_window_of_a_site_is_full(
    start_gateway: StartGateway, names: DNSServer, peer: Peer
) -> None:
    peer.always("RCPT", STALL)
    where = ["--resolver", names.address, "--smtp-port", str(peer.port), "--deny-host", "none"]
    gateway = start_gateway(*where, "--site-concurrency", "1")
    submit(gateway.port, "me@a.example", ["first@dest.example"])
    gateway.wait_until(lambda: "RCPT" in peer.verbs(), "the attempt")
    submit(gateway.port, "me@a.example", ["ready@dest.example"])
    gateway.wait_until(lambda: said("status", at=gateway)["relaying"] == 2, "both")
    [ready] = listed("to:ready@dest.example", at=gateway)
    [part] = said("explain", ready["id"], at=gateway)["parts"]
    assert part["blocker"]["kind"] == "window"
    assert part["site"]["relayers"] == part["site"]["window"] == 1
    assert part["site"]["ready"] == 1
    told = said("explain", "DEST.example.", at=gateway)
    assert (told["queue"]["relaying"], told["site"]["name"]) == (2, "mx.dest.example")


# -- mistakes, and no gateway ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["queue", "hold"], 2, "queue hold: name ids or predicates, or give --all"),
        (["queue", "hold", "--all", "domain:x"], 2, "name ids or predicates, or give --all"),
        (["queue", "delete", "damain:x.example"], 2, "no predicate begins with damain:"),
        (["queue", "list", "state:frozen"], 2, "no such state; write state:held"),
        (["queue", "list", "nonsense"], 2, "'nonsense' is no message id and no predicate"),
        (["queue", "show", "domain:x.example"], 2, "one message is wanted; give its id"),
        (["queue", "show", "0" * 13], 1, f"message {'0' * 13} is not in the queue"),
        (["queue", "cat", "0" * 13], 1, "is not in the queue"),
        (["explain", "0" * 13], 1, "is not in the queue"),
        (["queue", "hold", "--all", "--reason", "a\nb"], 2, "--reason: write one line"),
        (["queue", "list", "--limit", "0"], 2, "--limit"),
    ],
)
def test_what_cannot_be_done_says_why(
    idle: Gateway, arguments: list[str], status: int, words: str
) -> None:
    done = gwrelay(*arguments, at=idle, status=status)
    assert words in done.stderr.decode()
    assert not done.stdout


def test_ids_that_are_not_there_are_named_and_the_others_are_done(gateway: Gateway) -> None:
    name = add(gateway, "u@dest.example")
    absent = message_name(7)
    done = lines("queue", "hold", name, absent, at=gateway, status=1)
    assert done == [
        "held: 1 delivery, 1 message, 1 recipient",
        f"message {absent} is not in the queue",
    ]


def test_without_a_gateway_its_spool_is_read_and_nothing_is_changed(gateway: Gateway) -> None:
    name = add(gateway, "u@dest.example", "u@other.example")
    lines("queue", "hold", "domain:other.example", at=gateway)
    told = said("queue", "show", name, at=gateway)
    assert gateway.terminate() == 0
    assert states(gateway) == {"dest.example": "waiting", "other.example": "held"}
    assert states(gateway, "from:@a.example", "state:held") == {"other.example": "held"}
    assert listed("to:x@dest.example", at=gateway, status=1) == []
    assert said("queue", "summary", at=gateway)["destinations"][0]["deliveries"] == 1
    rest = said("queue", "show", name, at=gateway)
    assert (rest["envelope"], rest["size_bytes"]) == (told["envelope"], told["size_bytes"])
    assert gwrelay("queue", "cat", name, at=gateway).stdout.endswith(CONTENT)
    assert said("explain", name, at=gateway)["parts"][1]["why"] == "by an operator"
    assert "no gateway runs: nothing is tried until one does" in lines("explain", name, at=gateway)
    assert said("explain", "dest.example", at=gateway)["queue"]["waiting"] == 1
    told = said("status", at=gateway, status=4)
    assert told == {"running": False, "messages": 1, "waiting": 1, "held": 1}
    for verb in ("hold", "release", "retry", "delete"):
        assert b"no gateway runs" in gwrelay("queue", verb, name, at=gateway, status=4).stderr
    for looks in (["queue", "show"], ["queue", "cat"], ["explain"]):
        gone = gwrelay(*looks, "0" * 13, at=gateway, status=1)
        assert b"is not in the spool" in gone.stderr


def test_where_no_spool_is_named_or_there_is_none(tmp_path: Path) -> None:
    assert b"--spool: not given" in gwrelay("queue", "list", status=2).stderr
    admin = ["--admin", f"unix:{tmp_path}/none"]
    assert b"no gateway runs at" in gwrelay("queue", "list", *admin, status=4).stderr
    spool = ["--spool", str(tmp_path)]
    assert b"holds no worker-0" in gwrelay("queue", "list", *spool, status=2).stderr

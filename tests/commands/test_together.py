"""What several workers tell, told as one."""

from typing import Any

from gwrelay.commands import together

STATUS: dict[str, Any] = {
    "running": True,
    "version": "0.1.0",
    "pid": 100,
    "worker": 0,
    "worker_pid": 101,
    "started_at": 1000.0,
    "uptime_s": 60.0,
    "listening": ["127.0.0.1:25"],
    "connections": 3,
    "loaded": True,
    "waiting": 4,
    "relaying": 1,
    "held": 0,
    "next_due_at": 2000.0,
    "messages_done": 10,
    "in_doubt": 1,
    "violations": 2,
    "stuck": 1,
    "relayers": 2,
    "concurrency": 2000,
    "sites": 5,
    "dead_sites": 1,
}


def test_one_worker_alone_tells_what_it_told_before() -> None:
    told = together.status([STATUS])
    assert told.pop("workers") == [STATUS]
    assert told == STATUS


def test_counts_of_workers_add_up_and_the_rest_is_of_the_whole() -> None:
    draining = {
        "worker": 4,
        "worker_pid": 105,
        "listening": [],
        "started_at": 1010.0,
        "uptime_s": 50.0,
        "loaded": False,
        "next_due_at": None,
        "sites": 7,
        "dead_sites": 0,
    }
    told = together.status([STATUS | draining, STATUS])
    assert (told["connections"], told["waiting"], told["messages_done"]) == (6, 8, 20)
    assert (told["relayers"], told["concurrency"]) == (4, 4000)
    assert (told["violations"], told["stuck"]) == (4, 2)
    assert (told["started_at"], told["uptime_s"]) == (1000.0, 60.0)
    assert (told["listening"], told["loaded"]) == (["127.0.0.1:25"], False)
    assert told["next_due_at"] == 2000.0
    assert (told["sites"], told["dead_sites"]) == (7, 1)
    assert [one["worker_pid"] for one in told["workers"]] == [105, 101]
    assert told["pid"] == 100


def tally(destination: str, **changes: Any) -> dict[str, Any]:
    counts = {"deliveries": 1, "recipients": 2, "waiting": 1, "relaying": 0, "held": 0}
    times = {"oldest_at": 100.0, "next_due_at": 500.0}
    return {"destination": destination, **counts, **times, **changes}


def test_destinations_of_several_workers_are_told_once() -> None:
    one, other = together.tallies(
        [
            tally("a.example", next_due_at=None),
            tally("b.example"),
            tally("a.example", deliveries=5, oldest_at=50.0),
        ]
    )
    assert one == tally("a.example", deliveries=6, recipients=4, waiting=2, oldest_at=50.0)
    assert other == tally("b.example")


def done(**changes: Any) -> dict[str, Any]:
    counts = {"deliveries": 1, "messages": 1, "recipients": 2, "busy": 0, "held": 0, "in_doubt": 1}
    return {"verb": "hold", "dry_run": False, **counts, "absent": [], **changes}


def test_a_message_is_absent_when_no_worker_has_it() -> None:
    told = together.done(
        [done(absent=["a", "b"], busy=1), done(absent=["b", "c"], deliveries=4), done(absent="b")]
    )
    assert told == done(deliveries=6, messages=3, recipients=6, busy=1, in_doubt=3, absent=["b"])


SITE = {
    "name": "mx.a.example",
    "relayers": 2,
    "window": 5,
    "ready": 1,
    "parked": 4,
    "dead_until": None,
    "last_failure": None,
}


def about(**changes: Any) -> dict[str, Any]:
    plan = {"known": False, "reply": None, "hosts": []}
    told = {"destination": "a.example", "queue": None, "site": None, "plan": plan}
    return {**told, "relayers": 3, "concurrency": 10, **changes}


def test_a_destination_has_the_sessions_and_the_mail_of_all_workers() -> None:
    plan = {"known": True, "reply": None, "hosts": ["..."]}
    told = together.domain(
        [
            about(queue=tally("a.example"), site=SITE),
            about(plan=plan),
            about(
                queue=tally("a.example"),
                site=SITE | {"dead_until": 9.0, "last_failure": "refused"},
            ),
        ]
    )
    assert told["queue"]["deliveries"] == 2
    assert told["plan"] == plan
    assert (told["relayers"], told["concurrency"]) == (9, 30)
    together_now = {"relayers": 4, "window": 10, "ready": 2, "parked": 8}
    gone = {"dead_until": 9.0, "last_failure": "refused"}
    assert told["site"] == SITE | together_now | gone


def test_a_destination_that_no_worker_has_mail_for_has_none() -> None:
    told = together.domain([about(), about()])
    assert (told["queue"], told["site"], told["plan"]["known"]) == (None, None, False)


def test_of_what_is_remembered_twice_the_newest_is_told() -> None:
    entry = {"name": "a.example", "smarthost": False, "cname_limit": None, "made_at": 1.0}
    other = entry | {"smarthost": True}
    assert together.entries([entry, entry | {"made_at": 3.0}, other, entry | {"made_at": 2.0}]) == [
        entry | {"made_at": 3.0},
        other,
    ]


def test_of_marks_of_one_host_the_one_that_lasts_longest_is_told() -> None:
    mark = {"host": "192.0.2.1", "port": 25, "source": "", "until": 5.0}
    other = mark | {"port": 26}
    assert together.marks([mark, other, mark | {"until": 9.0}]) == [mark | {"until": 9.0}, other]


def test_what_several_workers_have_suspended_is_told_once_with_all_that_is_parked() -> None:
    one = {"kind": "domain", "name": "a.example", "until": 5.0, "parked": 2}
    other = one | {"name": "b.example"}
    longer = one | {"until": 6.0, "parked": 3}
    assert together.suspended([one, other, longer]) == [longer | {"parked": 5}, other]

"""Limits that hold for all workers together: sessions to a site, and rates."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gwrelay.relay.node import ASK_AGAIN_S, NodeSites, new_sites
from gwrelay.relay.rows import WINDOW

SITE = 4711
#: Long enough that who was refused, and has not asked again, wants no more.
LATER = 10.0


@pytest.fixture
def workers() -> Iterator[list[NodeSites]]:
    """Three, as three processes have them."""
    descriptor = new_sites(3, 64)
    yield [NodeSites(descriptor, 3, number, 64) for number in range(3)]
    os.close(descriptor)


def opened(worker: NodeSites, limit: int, now: float, count: int = 100) -> int:
    return sum(worker.open_session(SITE, limit, now) for _ in range(count))


# Sessions.


def test_sessions_of_all_workers_count_for_one_limit(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 5, 1.0, 3) == 3
    assert opened(workers[1], 5, 1.0) == 2
    assert not workers[0].open_session(SITE, 5, 2.0)
    assert [worker.sessions(SITE) for worker in workers] == [5, 5, 5]


def test_a_session_that_is_closed_makes_room_for_any_worker(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 2, 1.0) == 2
    workers[0].close_session(SITE)
    assert workers[2].open_session(SITE, 2, LATER)
    assert workers[1].sessions(SITE) == 2


def test_sites_have_limits_of_their_own(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 2, 1.0) == 2
    assert workers[0].open_session(SITE + 1, 2, 1.0)
    assert workers[1].sessions(SITE + 1) == 1


def test_a_limit_that_shrank_closes_nothing_and_opens_nothing(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 5, 1.0) == 5
    workers[0].close_session(SITE)
    assert not workers[1].open_session(SITE, 4, LATER)
    assert workers[1].sessions(SITE) == 4


def test_sessions_of_a_dead_worker_are_given_back(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 5, 1.0) == 5
    workers[0].clear()
    assert workers[1].sessions(SITE) == 0
    assert opened(workers[1], 5, LATER) == 5


def test_only_what_was_counted_can_be_closed(workers: list[NodeSites]) -> None:
    workers[0].open_session(SITE, 5, 1.0)
    with pytest.raises(ValueError, match="no session"):
        workers[1].close_session(SITE)
    with pytest.raises(ValueError, match="no session"):
        workers[0].close_session(SITE + 1)
    assert workers[0].sessions(SITE) == 1


# Whose turn it is.


def test_one_that_has_all_leaves_the_next_to_one_that_was_refused(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 4, 1.0) == 4
    assert not workers[1].open_session(SITE, 4, 1.1)
    assert workers[0].is_wanted_elsewhere(SITE, 1.2)
    workers[0].close_session(SITE)
    assert not workers[0].open_session(SITE, 4, 1.2)
    assert workers[1].open_session(SITE, 4, 1.2)
    assert not workers[0].is_wanted_elsewhere(SITE, 1.2)


def test_workers_that_all_want_more_come_to_have_as_many_each(workers: list[NodeSites]) -> None:
    counts = [opened(workers[0], 6, 1.0), 0, 0]
    assert counts == [6, 0, 0]
    now = 1.0
    for _ in range(20):
        now += ASK_AGAIN_S
        for number, worker in enumerate(workers):
            counts[number] += worker.open_session(SITE, 6, now)
        fullest = counts.index(max(counts))
        workers[fullest].close_session(SITE)
        counts[fullest] -= 1
    now += ASK_AGAIN_S
    for number, worker in enumerate(workers):
        counts[number] += worker.open_session(SITE, 6, now)
    assert sum(counts) == 6
    assert max(counts) - min(counts) <= 1, counts


def test_a_single_session_goes_round(workers: list[NodeSites]) -> None:
    holders = []
    now = 1.0
    for _ in range(9):
        now += ASK_AGAIN_S
        granted = [n for n, worker in enumerate(workers) if worker.open_session(SITE, 1, now)]
        holders += granted
        for n in granted:
            workers[n].close_session(SITE)
    assert sorted({holders.count(n) for n in range(3)}) == [3], holders


def test_who_does_not_ask_again_loses_his_turn(workers: list[NodeSites]) -> None:
    assert workers[0].open_session(SITE, 1, 1.0)
    assert not workers[1].open_session(SITE, 1, 1.0)
    workers[0].close_session(SITE)
    assert not workers[0].open_session(SITE, 1, 1.1)
    assert workers[0].open_session(SITE, 1, 1.1 + LATER)


def test_where_there_is_room_for_all_nobody_gives_way(workers: list[NodeSites]) -> None:
    assert opened(workers[0], 3, 1.0) == 3
    assert not workers[1].open_session(SITE, 3, 1.0)
    assert workers[0].open_session(SITE, 5, 1.0), "one more is left for the other"
    assert not workers[0].open_session(SITE, 5, 1.0)


# Rates.


def test_all_workers_share_a_rate(workers: list[NodeSites]) -> None:
    sent = []
    now = 100.0
    while now < 110.0:
        for worker in workers:
            if worker.next_at(SITE, 4.0, now) == now:
                sent.append(now)
        now += 0.01
    # At an even pace: the first, and then four a second.
    assert len(sent) == 40
    assert all(later - earlier > 0.24 for earlier, later in pairwise(sent))


def test_who_may_not_go_is_told_when_to_ask_again(workers: list[NodeSites]) -> None:
    assert workers[0].next_at(SITE, 2.0, 100.0) == 100.0
    assert workers[1].next_at(SITE, 2.0, 100.1) == 100.5
    assert workers[1].next_at(SITE, 2.0, 100.1, burst_s=0.01) == 100.49
    assert workers[1].next_at(SITE, 2.0, 100.5) == 100.5


def test_several_at_once_are_waited_for_by_those_that_come_next(workers: list[NodeSites]) -> None:
    assert workers[0].next_at(SITE, 2.0, 100.0, count=6) == 100.0
    assert workers[1].next_at(SITE, 2.0, 100.1) == 103.0


def test_what_did_not_go_is_given_back(workers: list[NodeSites]) -> None:
    workers[0].next_at(SITE, 2.0, 100.0, count=2)
    workers[0].give_back(SITE, 2.0, 100.0)
    assert workers[1].next_at(SITE, 2.0, 100.0) == 100.5


def test_a_rest_saves_nothing_up(workers: list[NodeSites]) -> None:
    workers[0].next_at(SITE, 2.0, 100.0)
    assert workers[0].next_at(SITE, 2.0, 1000.0) == 1000.0
    assert workers[1].next_at(SITE, 2.0, 1000.0) == 1000.5


# Rows.


def test_sites_that_nobody_has_sessions_to_make_room_for_others(workers: list[NodeSites]) -> None:
    """A thousand of them, one after the other, in a table of 64."""
    for key in range(1, 1001):
        now = float(key)
        assert workers[key % 3].open_session(key, 1, now)
        assert workers[key % 3].next_at(10_000 + key, 10.0, now) == now
        workers[key % 3].close_session(key)


def test_a_site_keeps_its_count_however_many_others_come(workers: list[NodeSites]) -> None:
    assert workers[0].open_session(SITE, 1, 1.0)
    for key in range(1, 1001):
        if key != SITE and workers[1].open_session(key, 1, LATER * key):
            workers[1].close_session(key)
    assert not workers[1].open_session(SITE, 1, LATER * 2000)


def test_a_turn_and_a_rate_are_kept_though_another_site_wants_their_row(
    workers: list[NodeSites],
) -> None:
    """One window is full but for a row where one was refused, another but for one with a rate."""
    assert workers[0].open_session(SITE, 1, 1.0)
    assert not workers[1].open_session(SITE, 1, 1.0)
    workers[0].close_session(SITE)
    assert workers[0].next_at(2 * SITE, 0.5, 1.0) == 1.0
    for key in (SITE, 2 * SITE):
        beside = [key + 64 * n for n in range(1, WINDOW + 1)]
        granted = [workers[2].open_session(other, 1, 1.1) for other in beside]
        assert granted == [True] * (WINDOW - 1) + [False]
    assert not workers[0].open_session(SITE, 1, 1.2)
    assert workers[1].next_at(2 * SITE, 0.5, 1.2) == 3.0
    # Later nobody cares, and the row is to be had.
    assert workers[2].open_session(SITE + 64 * WINDOW, 1, LATER)


def test_a_table_that_is_full_opens_nothing_more(workers: list[NodeSites]) -> None:
    keys = range(1, 200)
    granted = [key for key in keys if workers[0].open_session(key, 1, 1.0)]
    assert 16 < len(granted) <= 80
    assert all(workers[1].sessions(key) == 1 for key in granted)
    refused = next(key for key in keys if key not in granted)
    assert workers[1].next_at(refused, 1.0, 1.0) == 1.0 + ASK_AGAIN_S


PROCESS = """
import os, sys, time
from gwrelay.relay.node import NodeSites
sites = NodeSites(int(sys.argv[1]), 4, int(sys.argv[2]), 64)
end = time.monotonic() + 1.5
most = opened = 0
while time.monotonic() < end:
    if sites.open_session(5, 3, time.monotonic()):
        opened += 1
        most = max(most, sites.sessions(5))
        sites.close_session(5)
print(opened, most)
"""


def test_processes_that_open_and_close_at_once_never_have_more_than_the_limit(
    tmp_path: Path,
) -> None:
    descriptor = new_sites(4, 64)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(descriptor), str(n)],
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(4)
    ]
    told = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in processes]
    os.close(descriptor)
    assert all(opened > 0 for opened, _ in told), told
    assert max(most for _, most in told) <= 3, told

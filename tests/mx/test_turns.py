"""Waiting for a turn, and for a landing: with threads here, with greenlets when patched."""

import threading

import pytest

from gwrelay.mx.turns import Landing, Turns
from support.patched import run_patched
from support.processes import await_true


def test_no_more_are_inside_than_may_be_and_all_get_in() -> None:
    turns, lock = Turns(3), threading.Lock()
    inside = most = entered = 0

    def visit() -> None:
        nonlocal inside, most, entered
        for _ in range(50):
            with turns:
                with lock:
                    inside, entered = inside + 1, entered + 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    visitors = [threading.Thread(target=visit) for _ in range(10)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(10)
    assert entered == 500
    assert 1 <= most <= 3


def test_those_who_wait_come_in_the_order_they_came() -> None:
    turns, order = Turns(1), []
    turns.__enter__()

    def visit(number: int) -> None:
        with turns:
            order.append(number)

    visitors = [threading.Thread(target=visit, args=(n,)) for n in range(5)]
    for n, visitor in enumerate(visitors):
        visitor.start()
        await_true(lambda n=n: len(turns.waiting) == n + 1, "that it waits")
    turns.__exit__(None, None, None)
    for visitor in visitors:
        visitor.join(10)
    assert order == [0, 1, 2, 3, 4]


def test_one_who_leaves_by_an_exception_leaves_a_place() -> None:
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns:
            raise ZeroDivisionError


def test_one_killed_while_it_waits_takes_no_place_with_it() -> None:
    run_patched("""
        import gevent
        from gwrelay.mx.turns import Turns

        turns, came = Turns(1), []

        def visit(number):
            with turns:
                came.append(number)

        turns.__enter__()
        visitors = [gevent.spawn(visit, n) for n in range(3)]
        gevent.idle()
        visitors[0].kill()
        turns.__exit__(None, None, None)    # visitor 1 has the turn, but has not run
        visitors[1].kill()
        gevent.joinall(visitors, timeout=5)
        assert came in ([2], [1, 2]), came
        with gevent.Timeout(5), turns:
            pass
        """)


def test_all_who_wait_for_a_landing_go_on_and_nobody_waits_after_it() -> None:
    landing, gone_on = Landing(), []

    def wait(number: int) -> None:
        landing.wait()
        gone_on.append(number)

    waiting = [threading.Thread(target=wait, args=(n,)) for n in range(5)]
    for one in waiting:
        one.start()
    await_true(lambda: len(landing.waiting or ()) == 5, "that all wait")
    assert gone_on == []
    landing.land()
    for one in waiting:
        one.join(10)
    landing.wait()
    landing.land()
    assert sorted(gone_on) == [0, 1, 2, 3, 4]


def test_neither_costs_a_greenlet_its_turn() -> None:
    run_patched("""
        import gevent
        from gwrelay.mx.turns import Landing, Turns

        others = []
        gevent.spawn(others.append, 1)
        turns, landing = Turns(2), Landing()
        for _ in range(100):
            with turns:
                pass
        landing.land()
        landing.wait()
        assert others == []
        """)

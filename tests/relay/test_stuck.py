"""What counts as stuck, and when it is told."""

from gwrelay.relay.stuck import Stuck, Thing


def look(stuck: Stuck, now: float, **progress: object) -> dict[str, float]:
    """Which are told in a look at those that are given, and since when they have been stuck."""
    stuck.begin()
    told = {}
    for name, value in progress.items():
        since = stuck.see(Thing(name, value, name), now)
        if since is not None:
            told[name] = since
    stuck.end()
    return told


def test_what_does_not_move_for_long_enough_is_told_once_and_again_as_long_as_it_lasts() -> None:
    stuck = Stuck(100.0)
    told = [look(stuck, now, one=1) for now in (0.0, 40.0, 80.0, 120.0, 160.0, 200.0, 240.0)]
    assert told == [{}, {}, {}, {"one": 0.0}, {}, {}, {"one": 0.0}]
    assert (len(stuck), stuck.since("one")) == (1, 0.0)


def test_what_moves_is_not_stuck_and_what_goes_on_again_is_no_more() -> None:
    stuck = Stuck(100.0)
    for now in (0.0, 50.0, 100.0):
        look(stuck, now, moves=now, hangs=1)
    assert (stuck.since("moves"), stuck.since("hangs")) == (None, 0.0)
    assert look(stuck, 150.0, moves=1, hangs=2) == {}
    assert len(stuck) == 0
    assert look(stuck, 250.0, moves=1, hangs=2) == {"moves": 150.0, "hangs": 150.0}


def test_what_is_over_is_forgotten() -> None:
    stuck = Stuck(100.0)
    look(stuck, 0.0, one=1)
    look(stuck, 100.0, one=1)
    assert len(stuck) == 1
    look(stuck, 110.0)
    assert (len(stuck), stuck.since("one")) == (0, None)
    assert look(stuck, 120.0, one=1) == {}
    assert look(stuck, 219.0, one=1) == {}
    assert look(stuck, 220.0, one=1) == {"one": 120.0}

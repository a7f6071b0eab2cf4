"""The spool against a dict, on a disk that fails, fills, and loses what was not synced.

Nothing acknowledged is ever missing, nothing refused or dropped comes back, no batch by halves,
and no file is synced again after a sync of it failed.
"""

import errno
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spool import Amend, Chunk, Drop, Put, Spool, SpoolFailed, SpoolFull
from spool.frame import Record
from support.faulty_files import Crash, FaultyDisk, Rounds

#: Of one key: its state and whole body; None: it does not live.
Value = tuple[bytes, bytes] | None
STATES = st.binary(max_size=40)
SIZES = st.sampled_from([0, 10, 500, 2500])


class SpoolAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.disk = FaultyDisk(self.directory / "spool")
        #: What is durable; keys that are not here do not live.
        self.certain: dict[int, Value] = {}
        #: What a crash may leave of a key instead, oldest first.
        self.possible: dict[int, list[Value]] = {}
        #: What a crash may leave besides: the disk failed twice running, so that the seal of
        #: what was refused is not durable.
        self.doubtful: dict[int, list[Value]] = {}
        self.doubt_outlived_its_process = False
        #: (dropped, put) of one batch: the second lives only if the first does not.
        self.pairs: list[tuple[int, int]] = []
        self.now = 0.0
        self.opened = 0
        self.open()

    def open(self) -> None:
        self.opened += 1
        self.spool = Spool(
            self.disk.path,
            files=self.disk.files,
            clock=self.clock,
            segment_bytes=3000,
            checkpoint_bytes=2000,
            lazy=self.opened % 2 == 0,
        )
        if self.opened % 2 == 0:
            loaded = [key for batch in self.spool.load() for key, _ in batch]
            assert sorted(loaded) == [key for key, _ in self.spool.items()]

    def clock(self) -> float:
        """Goes on over crashes, so that a key that was lost is never given again."""
        self.now += 0.001
        return self.now

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    # What is done.

    def newest(self, key: int) -> Value:
        return self.possible[key][-1] if self.possible.get(key) else self.certain.get(key)

    def living(self) -> list[int]:
        return sorted(k for k in self.certain.keys() | self.possible.keys() if self.newest(k))

    def pick(self, choice: int) -> int:
        living = self.living()
        return living[choice % len(living)]

    def write(self, batch: list[Record], after: dict[int, Value], wait: bool) -> None:
        """Write, and remember what may have become of it."""
        failing = self.may_fail_twice()
        try:
            self.spool.write(batch, wait=wait)
        except (SpoolFull, SpoolFailed):
            if failing:
                self.doubt(after)
        except Crash:
            self.note(after)
            self.restart()
        else:
            self.note(after)
            if wait:
                self.settled()
                self.settle_doubt()

    def may_fail_twice(self) -> bool:
        """A sync fails, and the seal that says so cannot be made durable either."""
        failing = len(self.disk.sync_errors) + (self.disk.failing_call is not None)
        return failing > (self.disk.room is None)

    def note(self, after: dict[int, Value]) -> None:
        for key, value in after.items():
            self.possible.setdefault(key, []).append(value)

    def doubt(self, refused: dict[int, Value]) -> None:
        for key, value in refused.items():
            self.doubtful.setdefault(key, []).append(value)
        for key, values in self.possible.items():
            self.doubtful.setdefault(key, []).extend(values)

    def settled(self) -> None:
        """Everything written so far is durable."""
        for key, values in self.possible.items():
            self.certain[key] = values[-1]
        self.possible.clear()

    def settle_doubt(self) -> None:
        """Something was written, and the seal of what was refused comes before it."""
        if not self.doubt_outlived_its_process:
            self.doubtful.clear()

    def restart(self) -> None:
        self.disk.crash()
        self.open()
        self.check_possible()
        self.forget_doubt()

    def forget_doubt(self) -> None:
        """After a crash the disk is as it is."""
        self.doubtful.clear()
        self.doubt_outlived_its_process = False

    def check_possible(self) -> None:
        found = self.found()
        for key in found.keys() | self.certain.keys() | self.possible.keys():
            allowed = [self.certain.get(key), *self.possible.get(key, [])]
            allowed += self.doubtful.get(key, [])
            assert found.get(key) in allowed, (key, found.get(key), allowed)
        for dropped, put in self.pairs:
            assert not (put in found and dropped in found), (dropped, put)
        self.certain = dict(found)
        self.possible.clear()

    def found(self) -> dict[int, Value]:
        return {key: (state, b"".join(self.spool.body(key))) for key, state in self.spool.items()}

    # Rules.

    @rule(state=STATES, size=SIZES, wait=st.booleans())
    def put(self, state: bytes, size: int, wait: bool) -> None:
        key = self.spool.new_key()
        body = bytes([key % 256]) * size
        self.write([Put(key, state, b"head", body)], {key: (state, body)}, wait)

    @rule(state=STATES, sizes=st.lists(SIZES, min_size=1, max_size=4))
    def put_in_chunks(self, state: bytes, sizes: list[int]) -> None:
        key = self.spool.new_key()
        pieces = [bytes([seq]) * size for seq, size in enumerate(sizes)]
        after: dict[int, Value] = {key: (state, b"".join(pieces) + b"last")}
        spool = self.spool
        for seq, piece in enumerate(pieces):
            self.write([Chunk(key, seq, piece)], {}, wait=False)
        if self.spool is spool:
            self.write([Put(key, state, b"head", b"last", len(pieces))], after, wait=True)

    @precondition(living)
    @rule(choice=st.integers(0, 99), state=STATES, wait=st.booleans())
    def amend(self, choice: int, state: bytes, wait: bool) -> None:
        key = self.pick(choice)
        value = self.newest(key)
        assert value is not None
        self.write([Amend(key, state)], {key: (state, value[1])}, wait)

    @precondition(living)
    @rule(choice=st.integers(0, 99), state=STATES)
    def note_amended(self, choice: int, state: bytes) -> None:
        key = self.pick(choice)
        value = self.newest(key)
        assert value is not None
        try:
            self.spool.note([Amend(key, state)])
        except Crash:
            self.note({key: (state, value[1])})
            self.restart()
        else:
            self.note({key: (state, value[1])})
            assert self.spool.state(key) == state

    @precondition(living)
    @rule(choice=st.integers(0, 99), wait=st.booleans())
    def drop(self, choice: int, wait: bool) -> None:
        key = self.pick(choice)
        self.write([Drop(key)], {key: None}, wait)

    @precondition(living)
    @rule(choice=st.integers(0, 99), state=STATES, wait=st.booleans())
    def drop_and_report(self, choice: int, state: bytes, wait: bool) -> None:
        key, report = self.pick(choice), self.spool.new_key()
        self.pairs.append((key, report))
        batch: list[Record] = [Drop(key), Put(report, state, b"head", b"report")]
        self.write(batch, {key: None, report: (state, b"report")}, wait)

    @rule()
    def sync(self) -> None:
        failing = self.may_fail_twice()
        try:
            self.spool.sync()
        except (SpoolFull, SpoolFailed):
            if failing:
                self.doubt({})
            return
        except Crash:
            self.restart()
            return
        self.settled()
        assert self.found() == {k: v for k, v in self.certain.items() if v is not None}

    @rule(rounds=st.integers(1, 2))
    def upkeep(self, rounds: int) -> None:
        """Spent segments become spares, and a spare is made when there is none; a checkpoint is
        written when it is due."""
        failing = self.may_fail_twice()
        try:
            self.spool.run(Rounds(rounds))
        except Crash:
            self.restart()
            return
        if failing:
            self.doubt({})

    @rule()
    def compact(self) -> None:
        """Says nothing new, whatever else is on its way."""
        failing = self.may_fail_twice()
        try:
            self.spool.compact()
        except Crash:
            self.restart()
            return
        if failing:
            self.doubt({})

    @rule(seed=st.integers(0, 2**16))
    def lose_power(self, seed: int) -> None:
        self.disk.random.seed(seed)
        self.restart()

    @rule(calls=st.integers(0, 25), seed=st.integers(0, 2**16))
    def lose_power_soon(self, calls: int, seed: int) -> None:
        self.disk.random.seed(seed)
        self.disk.calls_left = calls

    @rule(calls=st.integers(0, 12), seed=st.integers(0, 2**16))
    def lose_power_again_while_starting(self, calls: int, seed: int) -> None:
        self.disk.random.seed(seed)
        self.disk.crash()
        self.disk.calls_left = calls
        try:
            self.open()
        except Crash:
            self.restart()
        else:
            self.disk.calls_left = None
            self.check_possible()
            self.forget_doubt()

    @rule()
    def close_and_open(self) -> None:
        self.sync()
        try:
            self.spool.close()
            # A first sync that fails is a test of its own: what a start finds need not be durable.
            self.disk.sync_errors = []
            self.open()
        except Crash:
            self.restart()
        else:
            self.check_possible()
            self.doubt_outlived_its_process = bool(self.doubtful)

    @rule(errors=st.lists(st.sampled_from([0, errno.EIO]), min_size=1, max_size=4))
    def syncs_will_fail(self, errors: list[int]) -> None:
        self.disk.sync_errors = errors

    @rule(calls=st.integers(0, 20), error=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def a_call_will_fail(self, calls: int, error: int) -> None:
        self.disk.failing_call = calls, error

    @rule(room=st.sampled_from([0, 50, 700, 3000]))
    def fill_the_disk(self, room: int) -> None:
        self.disk.room = room

    @rule()
    def mend_the_disk(self) -> None:
        self.disk.room, self.disk.sync_errors = None, []
        self.disk.failing_call = None

    @rule(short=st.booleans())
    def write_short(self, short: bool) -> None:
        self.disk.short_writes = short

    @invariant()
    def no_second_sync(self) -> None:
        assert self.disk.second_syncs == 0

    @invariant()
    def everything_durable_can_be_read(self) -> None:
        if self.disk.calls_left is None and not self.possible:
            assert self.found() == {k: v for k, v in self.certain.items() if v is not None}


TestSpoolAgainstDict: Callable[[], None] = SpoolAgainstDict.TestCase
TestSpoolAgainstDict.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)

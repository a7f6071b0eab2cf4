"""`gwrelay tune`: tries settings on this machine within a given time, and says which to use.

One setting after another, each with what was found for those before: every value has its turn in
every round, beside the one that it would replace.  What it means is trials.py's to say.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gwrelay.commands.printing import span
from gwrelay_bench.figures import middle
from gwrelay_bench.gateway import GatewayDied
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.measure import Result
from gwrelay_bench.passing import Plan, run
from gwrelay_bench.relays import GatewayRelay, Relay, Straight
from gwrelay_bench.scenario import Bench, BenchFailed, place_below
from gwrelay_bench.trials import FEWEST_ROUNDS, RATE, Knob, Trial, chosen, flags_of, knobs, toml_of
from gwrelay_bench.tunetable import print_outcome, verdict_of

_INTERRUPTED_STATUS = 130
#: Messages of the first run, which says how many a run is to have.
_FIRST = 1000
#: Seconds that the load of a run is to take: shorter ones say little, longer ones no more.
_SHORT_RUN_S, _GOOD_RUN_S, _LONG_RUN_S = 0.4, 1.5, 5.0
_ROUNDS = (7, 5, 4)
#: As many messages at least for each session to a next hop: what opening it costs is to be paid.
_FOR_EACH_SESSION = 5


class Job(NamedTuple):
    """What to tune for, and for how long."""

    time_s: float
    size_bytes: int
    sessions: int
    #: Until a next hop that is far replies.
    delay_s: float


class Outcome(NamedTuple):
    """What is known so far."""

    #: Of the source straight into the sink, and of the gateway as it comes.
    straight: dict[str, Any]
    usual: dict[str, Any]
    trials: list[Trial]
    #: Those to use, by flag, that are not as the gateway comes.
    settings: dict[str, str]
    #: Until a next hop that is far replies.
    delay_s: float


def tune(parent: Path | None, job: Job, *, as_json: bool) -> int:
    """The exit status.  What is known is told on Ctrl-C too, and when a gateway or its load fails,
    which is then raised as BenchFailed."""
    raise_file_limit()
    with place_below(parent) as directory:
        bench = Bench(directory, as_json)
        tuning = Tuning(bench, job, knobs())
        try:
            tuning.run()
        except KeyboardInterrupt:
            _tell(bench, tuning.outcome, "Interrupted")
            return _INTERRUPTED_STATUS
        except (GatewayDied, BenchFailed):
            _tell(bench, tuning.outcome, "It went no further")
            raise
    _tell(bench, tuning.outcome, "")
    return 0


def _tell(bench: Bench, outcome: Outcome, cut_off: str) -> None:
    print_outcome(bench.console, outcome, bench.settings, cut_off=cut_off)
    bench.tell(_summary(outcome, complete=not cut_off))


class Tuning:
    def __init__(self, bench: Bench, job: Job, knobs: Sequence[Knob]) -> None:
        self._bench = bench
        self._job = job
        self._knobs = knobs
        self._ends_at = time.monotonic() + job.time_s
        #: Of a run, beside its load: starting and stopping.
        self._overhead_s = 0.0
        self._run_s = _SHORT_RUN_S
        self._rounds = _ROUNDS[-1]
        self.outcome = Outcome({}, {}, [], {}, job.delay_s)

    def run(self) -> None:
        self._look_around()
        for knob in self._knobs:
            self._try(knob)

    def _look_around(self) -> None:
        """How fast it is, and with that what there is time for."""
        near = Plan(Load(_FIRST, self._job.size_bytes, self._job.sessions))
        straight = run(self._bench, near, Straight(), "straight into the sink")
        began_at = time.monotonic()
        usual = run(self._bench, near, GatewayRelay({}, ()), "as it comes")
        self._overhead_s = time.monotonic() - began_at - _FIRST / usual[RATE]
        self.outcome = self.outcome._replace(straight=straight, usual=usual)
        values = sum(len(knob.values) for knob in self._knobs)
        for rounds in _ROUNDS:
            self._rounds = rounds
            load_s = self._left_s / (rounds * max(1, values)) - self._overhead_s
            if load_s >= _GOOD_RUN_S:
                break
        self._run_s = min(_LONG_RUN_S, max(_SHORT_RUN_S, load_s))

    @property
    def _left_s(self) -> float:
        return self._ends_at - time.monotonic()

    def _try(self, knob: Knob) -> None:
        """All values of one setting; the best of them is set for those that follow."""
        kept, found = knob.values[0], {value: list[dict[str, Any]]() for value in knob.values}
        plan, longest_s = self._plan(knob), 0.0
        try:
            for number in range(self._rounds):
                began_at = time.monotonic()
                guess_s = len(knob.values) * (self._overhead_s + self._run_s)
                if self._left_s < (longest_s or guess_s):
                    break
                # Another one begins each round: being first is no advantage of the same one.
                for place in range(len(knob.values)):
                    value = knob.values[(place + number) % len(knob.values)]
                    what = f"{knob.flag} {value}, round {number + 1} of {self._rounds}"
                    what += f", {span(max(0.0, self._left_s))} left"
                    found[value].append(run(self._bench, plan, self._relay(knob, value), what))
                longest_s = max(longest_s, time.monotonic() - began_at)
        finally:
            self._judge(knob, kept, found)

    def _judge(self, knob: Knob, kept: str, found: dict[str, list[dict[str, Any]]]) -> None:
        # An interrupted round is one of nobody.
        rounds = min(map(len, found.values()))
        trials = [
            Trial(knob, value, kept, found[value][:rounds], found[kept][:rounds])
            for value in knob.values[1:]
        ]
        self.outcome.trials.extend(trials)
        best = chosen(trials)
        if best is not None:
            self.outcome.settings.update(knob.settings(best.value))
        for trial in trials:
            self._bench.console.print(verdict_of(trial))
            if rounds >= FEWEST_ROUNDS:
                self._bench.tell(_result(trial, self.outcome.straight, taken=trial is best))

    def _relay(self, knob: Knob, value: str) -> Relay:
        mine = knob.settings(value) if value != knob.values[0] else {}
        return GatewayRelay({**self.outcome.settings, **mine}, ())

    def _plan(self, knob: Knob) -> Plan:
        job, rate = self._job, self.outcome.usual[RATE]
        if not knob.is_far:
            return Plan(Load(self._messages(rate), job.size_bytes, job.sessions))
        # A message takes two replies of a next hop's session.
        rate = min(rate, int(knob.values[0]) / (2 * job.delay_s)) if job.delay_s else rate
        most = _FOR_EACH_SESSION * max(map(int, knob.values))
        load = Load(max(most, self._messages(rate)), job.size_bytes, job.sessions)
        return Plan(load, Reception(delay_s=job.delay_s))

    def _messages(self, rate_per_s: float) -> int:
        return max(100, round(rate_per_s * self._run_s))


def _result(trial: Trial, straight: dict[str, Any], *, taken: bool) -> Result:
    rate = trial.difference(RATE)
    settings = {
        "setting": trial.knob.flag,
        "value": trial.value,
        "beside": trial.kept,
        "next_hop": "far" if trial.knob.is_far else "near",
        "rounds": len(trial.rounds),
        "cores_shared_by": "relay, source, sink",
    }
    figures = {
        **middle(trial.rounds),
        "ratio_least": rate.least if rate else None,
        "ratio_most": rate.most if rate else None,
        "verdict": trial.verdict,
        "taken": taken,
        "straight_per_s": straight.get(RATE),
    }
    return Result("tune", settings, figures, middle(trial.beside), rate.ratio if rate else None)


def _summary(outcome: Outcome, *, complete: bool) -> Result:
    figures = {
        "flags": flags_of(outcome.settings),
        "toml": toml_of(outcome.settings),
        "complete": complete,
    }
    return Result("tune", {"setting": "all"}, figures)

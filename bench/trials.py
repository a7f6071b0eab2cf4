"""What `gwrelay tune` tries, and what it makes of what it measured: values in, values out.

Two values of a setting are compared round by round: each round has one run of both, close
together, so that a machine that is slower for a while is slower for both.  What counts is the
median of the rounds' ratios, and only where it is further from 1 than chance would bring it once in
a hundred times, with rounds so few and so far apart.
"""

from collections.abc import Mapping, Sequence
from math import log, sqrt
from statistics import median, stdev
from typing import Any, NamedTuple

from gwrelay.config import TABLE
from gwrelay.processes.cores import usable_cores
from gwrelay_bench.measure import flat

#: Less than this is no reason to set anything, however sure it is.
_WORTH = 0.02
#: With fewer rounds there is no telling how far they are apart.
FEWEST_ROUNDS = 3
#: By rounds: of so many standard errors is chance in one of a hundred cases (Student's t).  Runs of
#: one and the same gateway, a third apart on a machine with other work, differed so in about one of
#: a hundred comparisons, whether of 3 rounds or of 7.
_STANDARD_ERRORS = {3: 6.96, 4: 4.54, 5: 3.75, 6: 3.36, 7: 3.14}

FASTER, LEANER, SLOWER, SAME = "faster", "less CPU", "slower", "no difference"
TOO_FEW = "too few rounds"

RATE, CPU, P99 = "per_s", "cpu_s_per_1000", "dot_to_250_ms.p99"


class Knob(NamedTuple):
    """A setting to try.  `values`: the first is what it is when nobody sets it."""

    flag: str
    values: tuple[str, ...]
    #: It is about sessions that wait for replies: tried with a next hop that takes its time.
    is_far: bool = False
    #: Flags that are given the same value.
    along: tuple[str, ...] = ()

    def settings(self, value: str) -> dict[str, str]:
        return {f"--{flag}": value for flag in (self.flag, *self.along)}


class Difference(NamedTuple):
    """One value's figures over another's: the median of the rounds, and their extremes."""

    ratio: float
    least: float
    most: float
    #: As a logarithm: half and double are equally far from 1.
    by_chance: float

    @property
    def is_certain(self) -> bool:
        return abs(log(self.ratio)) > max(log(1 + _WORTH), self.by_chance)


class Trial(NamedTuple):
    """`value` of a setting beside `kept`, which it had until then: the figures of each round."""

    knob: Knob
    value: str
    kept: str
    rounds: Sequence[Mapping[str, Any]]
    beside: Sequence[Mapping[str, Any]]

    def difference(self, figure: str) -> Difference | None:
        """None with too few rounds, or where something had no such figure, or 0."""
        pairs = [
            (flat(one).get(figure), flat(other).get(figure))
            for one, other in zip(self.rounds, self.beside, strict=True)
        ]
        ratios = [one / other for one, other in pairs if one and other]
        if len(ratios) < max(FEWEST_ROUNDS, len(pairs)):
            return None
        by_chance = _STANDARD_ERRORS[min(len(ratios), max(_STANDARD_ERRORS))] * (
            stdev(map(log, ratios)) / sqrt(len(ratios))
        )
        return Difference(median(ratios), min(ratios), max(ratios), by_chance)

    @property
    def verdict(self) -> str:
        """By rate; where that says nothing, by CPU."""
        rate, cpu = self.difference(RATE), self.difference(CPU)
        if rate is None:
            return TOO_FEW
        if rate.is_certain:
            return FASTER if rate.ratio > 1 else SLOWER
        is_leaner = cpu is not None and cpu.is_certain and cpu.ratio < 1
        # One that only may be slower is not to be had for less CPU.
        return LEANER if is_leaner and rate.ratio > 1 - _WORTH else SAME


def knobs(cores: int | None = None) -> list[Knob]:
    """Those to try, in this order, on a machine with so many cores."""
    cores = cores or usable_cores()
    usual = str(TABLE["workers"].default)
    workers = str(cores) if usual == "auto" else usual
    counts = sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores})
    return [
        Knob("workers", _first(workers, map(str, counts))),
        Knob("site-concurrency", _first(_usual("site_concurrency"), ("50", "200")),
             is_far=True, along=("site-concurrency-initial",)),
        Knob("segment-size", _first(_usual("segment_size_bytes"), ("4M", "64M"))),
        Knob("resident-bodies", _first(_usual("resident_bodies_bytes"), ("16M", "256M"))),
    ]  # fmt: skip


def chosen(trials: Sequence[Trial]) -> Trial | None:
    """Which of one setting's values to use instead of the kept one, if any: the fastest of those
    that are faster, or else that which takes the least CPU of those that take less."""
    for verdict, figure, sign in ((FASTER, RATE, -1), (LEANER, CPU, 1)):
        found = [
            (sign * difference.ratio, number)
            for number, trial in enumerate(trials)
            if trial.verdict == verdict and (difference := trial.difference(figure))
        ]
        if found:
            return trials[min(found)[1]]
    return None


def flags_of(settings: Mapping[str, str]) -> str:
    """For a command line."""
    return " ".join(f"{flag} {value}" for flag, value in settings.items())


def toml_of(settings: Mapping[str, str]) -> str:
    """For the file that --config names, a line each."""
    return "".join(f'{flag.removeprefix("--")} = "{value}"\n' for flag, value in settings.items())


def _usual(field: str) -> str:
    return str(TABLE[field].default)


def _first(usual: str, others: Any) -> tuple[str, ...]:
    return (usual, *(other for other in others if other != usual))

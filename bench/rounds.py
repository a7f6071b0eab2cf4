"""Several relays beside each other: each has its turn in every round, and medians are told.

The source straight into the sink is the limit, and everybody's baseline; with --against postfix a
private Postfix is given the same load, as it comes and opened up.
"""

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import click

from gwrelay.config import TABLE
from gwrelay.processes.cores import usable_cores
from gwrelay_bench.figures import middle
from gwrelay_bench.load import Load
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.measure import Result, Target, flat
from gwrelay_bench.postfix import version
from gwrelay_bench.relays import GatewayRelay, PostfixRelay, Relay, Straight
from gwrelay_bench.scenario import Bench, Size

DEFAULT, TUNED, BOTH = "default", "tuned", "both"
#: What an administrator opens on a Postfix that is to relay much, whatever the load.
TUNING = {
    "default_process_limit": "500",
    "in_flow_delay": "0",
    "qmgr_message_active_limit": "100000",
    "qmgr_message_recipient_limit": "100000",
    "smtpd_peername_lookup": "no",
    "max_use": "1000",
}
_MIB = 1024 * 1024
#: Of a worker; of content, which is --resident-bodies; of a session.
_WORKER_BYTES, _BODIES_BYTES, _SESSION_BYTES = 150 * _MIB, 64 * _MIB, 40 * 1024
#: Of flags, where there are none.
AS_IT_COMES = "as it comes"
#: Accept and deliver together.
LEAN = Target("cpu_s_per_1000", at_most=0.30)


#: Figures of one relay in one round.
Figures = dict[str, Any]
#: Measures one; the text is what people are shown meanwhile.
Measure = Callable[[Relay, str], Figures]


class Contest(NamedTuple):
    """How often, and against whom: what the options of a scenario say."""

    runs: int
    postfix: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def workers(self) -> int:
        """What --gateway says of them, or else how the gateway comes."""
        told = [word.removeprefix("--workers=") for word in self.words if "--workers=" in word]
        told += [self.words[n + 1] for n, word in enumerate(self.words[:-1]) if word == "--workers"]
        said = told[-1] if told else str(TABLE["workers"].default)
        return usable_cores() if said == "auto" else int(said)

    def most_bytes(self, sessions: int) -> Target:
        """What the gateway may take in RAM with so many sessions in and out."""
        most = self.workers * (_WORKER_BYTES + _BODIES_BYTES) + sessions * _SESSION_BYTES
        return Target("peak_bytes", at_most=most)


class Scores(NamedTuple):
    """What all rounds found, the same number of each."""

    straight: list[Figures]
    gateway: list[Figures]
    #: By configuration.
    postfix: dict[str, list[Figures]]
    flags: str
    #: By configuration.
    tuning: dict[str, str]


def _words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None


gateway_option = click.option(
    "--gateway", default="", metavar="FLAGS", callback=_words, help="More flags of the gateway."
)


def contest(
    *, messages: int, size: str = "4K", sessions: int | None = 20, fewest: int = 1
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give `measure(bench, contest, load, **options)` the options that such scenarios have, with
    these defaults; `sessions` None: it has an option of its own for them."""
    wanted = [
        click.option(
            "--messages", type=click.IntRange(fewest), default=messages, show_default=True
        ),
        click.option(
            "--size", default=size, show_default=True, type=Size(), help="Of each message."
        ),
        click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Each."),
        click.option("--against", type=click.Choice(["postfix"]), help="Give it the same load."),
        click.option(
            "--postfix", type=click.Choice([DEFAULT, TUNED, BOTH]), default=BOTH,
            show_default=True, help="As it comes, or opened up.",
        ),
        gateway_option,
    ]  # fmt: skip
    if sessions is not None:
        many = click.option(
            "--sessions", type=click.IntRange(1), default=sessions, show_default=True, help="In."
        )
        wanted.insert(2, many)

    def decorate(measure: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(measure)
        def start(
            bench: Bench,
            messages: int,
            size: int,
            runs: int,
            against: str | None,
            postfix: str,
            gateway: tuple[str, ...],
            **options: Any,
        ) -> None:
            raise_file_limit()
            rivals = ((DEFAULT, TUNED) if postfix == BOTH else (postfix,)) if against else ()
            load = Load(messages, size, options.pop("sessions") if sessions else 0)
            measure(bench, Contest(runs, rivals, gateway), load, **options)

        for option in reversed(wanted):
            start = option(start)
        return start

    return decorate


def take_turns(
    contest: Contest,
    straight: Measure,
    through: Measure,
    *,
    flags: Mapping[str, str] = {},
    postfix: Mapping[str, str] = {},
    tuned: Mapping[str, str] = {},
) -> Scores:
    """`straight` measures the source straight into the sink, `through` a gateway with `flags` and
    each Postfix that is wanted: with the settings `postfix`, and opened up with TUNING and `tuned`
    where it is to be."""
    gateway = GatewayRelay(flags, contest.words)
    rivals = {
        configuration: PostfixRelay(
            configuration, {**postfix, **({**TUNING, **tuned} if configuration == TUNED else {})}
        )
        for configuration in contest.postfix
    }
    relays: list[tuple[Relay, Measure]] = [(Straight(), straight), (gateway, through)]
    relays += [(rival, through) for rival in rivals.values()]
    found: dict[str, list[Figures]] = {relay.name: [] for relay, _ in relays}
    for number in range(contest.runs):
        for relay, measure in relays:
            what = f"{relay.name}, run {number + 1} of {contest.runs}"
            found[relay.name].append(measure(relay, what))
    return Scores(
        found[Straight.name],
        found[gateway.name],
        {configuration: found[rival.name] for configuration, rival in rivals.items()},
        gateway.flags,
        {configuration: rival.tuning for configuration, rival in rivals.items()},
    )


def tell(
    bench: Bench,
    name: str,
    load: Load,
    scores: Scores,
    *,
    settings: Mapping[str, Any] = {},
    rate: str = "per_s",
    targets: Sequence[Target] = (),
    times: Mapping[str, float] = {},
    shares: Mapping[str, float] = {},
) -> None:
    """One result for the gateway, and one for each Postfix.

    `times` of Postfix's a figure is to be at least, `shares` of it at most; figures are named as
    targets name them.  `rate` over that of the straight load is the ratio.
    """
    limit, found = middle(scores.straight), middle(scores.gateway)
    targets = [*targets, Target("again", at_most=0)]
    for configuration, rounds in scores.postfix.items():
        beside = found.setdefault("times_postfix", {}).setdefault(configuration, {})
        for figure, least in times.items():
            beside[figure] = _ratio(scores.gateway, rounds, figure)
            targets.append(Target(f"times_postfix.{configuration}.{figure}", at_least=least))
        rival = flat(middle(rounds))
        for figure, share in shares.items():
            beside[figure] = _ratio(scores.gateway, rounds, figure)
            targets.append(Target(figure, at_most=round(share * rival[figure], 3)))
    told = {
        "messages": load.messages,
        "bytes": load.size_bytes,
        "sessions": load.sessions,
        "messages_per_connection": load.per_connection or "all",
        **settings,
        "runs": len(scores.gateway),
        "cores_shared_by": "relay, source, sink",
    }
    gateway = {**told, "relay": "gateway", "flags": scores.flags or AS_IT_COMES}
    ratio = _ratio(scores.gateway, scores.straight, rate)
    found["runs"] = [one[rate] for one in scores.gateway]
    bench.tell(Result(name, gateway, found, limit, ratio, targets=targets))
    for configuration, rounds in scores.postfix.items():
        rival_told = {
            **told, "relay": f"Postfix {version()}, {configuration}",
            "flags": scores.tuning[configuration] or AS_IT_COMES,
        }  # fmt: skip
        figures = {**middle(rounds), "runs": [one[rate] for one in rounds]}
        ratio = _ratio(rounds, scores.straight, rate)
        bench.tell(Result(name, rival_told, figures, limit, ratio))


def _ratio(ours: Sequence[Figures], theirs: Sequence[Figures], figure: str) -> float | None:
    """The median of those of each round; None when there is no such figure."""
    pairs = [
        (flat(one).get(figure), flat(other).get(figure))
        for one, other in zip(ours, theirs, strict=True)
    ]
    ratios = [one / other for one, other in pairs if one is not None and other]
    return round(median(ratios), 3) if ratios else None

"""The load generator behind `gwrelay bench source`: any mix, and every reply counted.

As a program: `python -m gwrelay_bench.mixsource ADDR PORT LEDGER`, with a JSON object on standard
input: {"load": a Load, "mix": a Mix, "auth": "USER:PASSWORD"}.  Prints what was answered as
another one, also when it is terminated.  A message that is refused costs nothing but itself.
"""

import base64
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from json import dumps, loads
from pathlib import Path
from typing import Any

from gwrelay_bench.ledger import ACCEPTED, ANSWERED, Ledger
from gwrelay_bench.load import Load
from gwrelay_bench.loadsource import (
    MOST_LOST,
    LoadSource,
    Lost,
    Session,
    Talk,
    codes,
    demand,
    replies,
    shown,
)
from gwrelay_bench.machine import die_with_parent, raise_file_limit
from gwrelay_bench.mix import Letters, Mix
from gwrelay_bench.wire import Wire

#: What becomes of a message whose session was lost.
LOST = "lost"
_RSET = b"RSET\r\n"


class Terminated(Exception):
    """By SIGTERM."""


class MixSource(LoadSource):
    def __init__(
        self, relay: tuple[str, int], load: Load, ledger: Ledger, letters: Letters, auth: str = ""
    ) -> None:
        super().__init__(relay, load, ledger)
        self._letters = letters
        self._auth = auth
        #: Of messages, by the code that decided; of RCPT, by code.
        self.messages: Counter[str] = Counter()
        self.recipients: Counter[str] = Counter()
        #: Sessions lost one after another, without an answer between.
        self._in_vain = 0

    @property
    def _gives_up(self) -> bool:
        return self._in_vain > MOST_LOST

    def _lose(self, session: Session, why: str) -> None:
        self._in_vain += 1
        if session.number is not None:
            self.messages[LOST] += 1
        super()._lose(session, why)

    def _begin(self, wire: Wire) -> Generator[None, bytes, bytes]:
        offered = yield from super()._begin(wire)
        if self._auth:
            user, _, password = self._auth.partition(":")
            secret = base64.b64encode(f"\0{user}\0{password}".encode())
            wire.send(b"AUTH PLAIN %s\r\n" % secret)
            demand(b"235", (yield from replies(1)))
        return offered

    def _submit(self, session: Session, number: int, pipelines: bool) -> Talk:
        """One transaction."""
        wire = session.wire
        commands = self._letters.commands(number)
        if pipelines:
            wire.send(b"".join(commands))
            words = yield
            if words != self._go_ahead:
                words = yield from replies(len(commands), words)
            answered = codes(words)
            if answered == ["250"] * (len(commands) - 1) + ["354"]:
                self._go_ahead = words
        else:
            words, answered = b"", list[str]()
            for command in commands:
                if command is commands[-1] and "250" not in answered[1:]:
                    break
                wire.send(command)
                words = yield from replies(1)
                answered += codes(words)
                if answered[0] != "250":
                    break
        asked = answered[1 : len(commands) - 1] if answered[0] == "250" else []
        self.recipients.update(asked)
        if answered[-1] == "354":
            yield from self._hand_over(session, number, "250" in asked)
            return
        self._answer(session, next(one for one in answered if one != "250"), words)
        if answered[0] == "250":
            wire.send(_RSET)
            yield from replies(1)

    def _hand_over(self, session: Session, number: int, somebody: bool) -> Talk:
        """The content; nothing where DATA was taken though no recipient was."""
        wire, clock, ledger = session.wire, time.time, self._ledger
        wire.send(self._letters.content(number) if somebody else b".\r\n")
        while wire.unsent:
            yield
        sent_at = clock()
        words = yield
        if words[:4] != b"250 " or words[-1:] != b"\n":
            words = yield from replies(1, words)
        [code] = codes(words)
        if code == "250":
            ledger.sent_at[number], ledger.answered_at[number] = sent_at, clock()
            ledger.counters[ACCEPTED] += 1
        self._answer(session, code, words)

    def _answer(self, session: Session, code: str, words: bytes) -> None:
        session.number = None  # whatever becomes of the session
        self._in_vain = 0
        self._ledger.counters[ANSWERED] += 1
        self.messages[code] += 1
        if code != "250":
            self._tell(f"refused: {shown(words)}")
        if code == "421":
            raise Lost("421")  # nothing more is heard in this session (RFC 5321 3.8)


def _told(source: MixSource) -> dict[str, Any]:
    return {
        "cpu_s": source.cpu_s,
        "lost": source.lost,
        "said": sorted(source.said),
        "messages": source.messages,
        "recipients": source.recipients,
    }


def _end(*_: object) -> None:
    raise Terminated


if __name__ == "__main__":
    address, port, path = sys.argv[1:]
    words = loads(sys.stdin.read())
    load = Load(**words["load"])
    die_with_parent()
    raise_file_limit()
    letters = Letters(Mix.of(words["mix"]), secrets.token_hex(4))
    ledger = Ledger(Path(path), load.messages)
    source = MixSource((address, int(port)), load, ledger, letters, words["auth"])
    signal.signal(signal.SIGTERM, _end)
    with suppress(Terminated):  # then what is known by now is told
        source.run()
    print(dumps(_told(source)))

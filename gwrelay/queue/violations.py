"""What a self-check found that may not be: counted, and told in the log, each on a line."""

import logging
from collections.abc import Callable

from gwrelay.message.envelope import message_name

logger = logging.getLogger(__name__)

#: Lines in one round: what goes wrong for one message may go wrong for a million.
_LINES = 20


class Violations:
    """`clock` and `round_s` say when lines may be written again."""

    def __init__(self, clock: Callable[[], float], round_s: float = 60.0) -> None:
        self._clock = clock
        self._round_s = round_s
        self._round_at = float("-inf")
        self._in_round = 0
        #: Since the start.
        self.count = 0

    def note(self, what: str, repair: str) -> None:
        """`repair` says what was done about it."""
        self.count += 1
        now = self._clock()
        if not self._round_at <= now < self._round_at + self._round_s:
            self._round_at = now
            self._in_round = 0
        self._in_round += 1
        if self._in_round <= _LINES:
            logger.error("self-check: %s; %s", what, repair)
        elif self._in_round == _LINES + 1:
            logger.error("self-check: more of that, which is only counted for a while")

    def note_part(self, message_id: int, part: int, what: str, repair: str) -> None:
        """`part` is its first recipient."""
        self.note(f"message {message_name(message_id)}, recipient {part}: {what}", repair)

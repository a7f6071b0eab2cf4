"""How many sessions a site may have at once, learned from what it says.  Pure: no clock.

A window of w sessions, a threshold t and a limit L:

    at the start             w = initial                  t = L
    success, window in use   w = min(L, w + 1)            while w < t
                             w = min(L, w + 1/w)          else: one more after w successes
    a message is throttled   w = t = max(1, w - 1)        421, or 4.7.x
    a session is refused     w = t = s                    while s >= 1 others go on: it takes no
                             no growth for PATIENCE       more than these; each further try costs
                             successes                    it a session that it does not want
    every host out of reach  t = max(t, w), w = 1         one probe, not a crowd; then a slow start
                                                          to where it was, which is not slow: each
                                                          success brings one session, as at first

Postfix has 1/N feedback too (SCHEDULER_README), per failure and from the start; growing by one
until the first no finds the limit of a willing site in a few messages.  "In use" is w < 2 * the
sessions open: those that end together count all, and a window that nobody fills teaches nothing.
0 does not exist: a site is dead while every address of it bears a mark, and for no other reason.
`gwrelay bench window` simulates it, and draws it with --plot.
"""

#: Successes at a site that refused a session until it is asked for another one.
PATIENCE = 100


class Window:
    __slots__ = ("_limit", "_parts", "_patience", "_threshold", "sessions")

    def __init__(self, limit: int, initial: int) -> None:
        #: As many may be open at once; at least 1.
        self.sessions = min(initial, limit)
        self._limit = limit
        self._threshold = limit
        #: Successes on the way to one more.
        self._parts = 0
        #: Successes to wait for before the window opens further.
        self._patience = 0

    def set_limit(self, limit: int) -> None:
        """Another one than before; what was learned holds as far as it is within that."""
        if self._threshold == self._limit or self._threshold > limit:
            self._threshold = limit
        self._limit = limit
        self.sessions = min(self.sessions, limit)

    @property
    def has_learned(self) -> bool:
        """Whether the site has said no to something."""
        return self._threshold < self._limit or self._patience > 0

    def note_success(self, in_use: int) -> None:
        """A message was answered while `in_use` sessions were open."""
        if self._patience:
            self._patience -= 1
        elif self.sessions < min(2 * in_use, self._limit):
            self._parts += 1
            if self.sessions < self._threshold or self._parts >= self.sessions:
                self.sessions += 1
                self._parts = 0

    def note_throttled(self) -> None:
        """It asked us to slow down: 421, or a temporary refusal for reasons of policy."""
        self._shrink(self.sessions - 1)
        self._threshold = self.sessions

    def note_refused(self, others: int) -> None:
        """A session did not come about while `others` went on."""
        if others:
            self._shrink(min(others, self._limit))
            self._threshold = self.sessions
            self._patience = PATIENCE
        else:
            self._threshold = max(self._threshold, self.sessions)
            self._shrink(1)
            self._patience = 0

    def _shrink(self, sessions: int) -> None:
        self.sessions = max(1, sessions)
        self._parts = 0

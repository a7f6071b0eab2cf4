"""Which mail a command is about, as people write it: ids, and predicates that all must hold.

    0avw3k2m8c1d0 domain:example.com from:@example.net to:bob@example.com state:held

Pure.  A selection picks *parts*: what one message still has open for one destination.  The
predicates that ask for an envelope cost a look into the spool for each message.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from gwrelay.errors import ConfigError
from gwrelay.message.envelope import Envelope, message_id
from gwrelay.queue.standing import HELD, RELAYING, WAITING, Part

_STATES = (HELD, WAITING, RELAYING)
_EXAMPLES = {
    "domain": "domain:example.com",
    "from": "from:bob@example.com, from:@example.com or, for reports, from:<>",
    "to": "to:bob@example.com or to:@example.com",
    "state": f"state:{', state:'.join(_STATES)}",
}


class _Mailbox(NamedTuple):
    """An address, or with "" for its local part all of a domain; "" and "" is the null path."""

    local_part: str
    domain: str

    def is_of(self, address: str) -> bool:
        local_part, _, domain = address.rpartition("@")
        if _plain(domain) != self.domain:
            return False
        # Whether Bob is bob, the domain alone knows (RFC 5321 2.4).
        return not self.local_part or local_part == self.local_part


class Selection(NamedTuple):
    """`ids` empty: of all messages.  None: whichever."""

    ids: tuple[int, ...] = ()
    state: str | None = None
    domain: str | None = None
    reverse_path: _Mailbox | None = None
    recipients: tuple[_Mailbox, ...] = ()

    @property
    def reads_envelopes(self) -> bool:
        return self.reverse_path is not None or bool(self.recipients)

    def takes(self, state: str, destination: str) -> bool:
        """Whether a part may be meant, as far as can be said without the envelope."""
        return self.state in (None, state) and self.domain in (None, destination)

    def takes_of(self, envelope: Envelope, recipients: Collection[int]) -> bool:
        """Whether the part with these of the envelope's recipients is meant."""
        if self.reverse_path is not None and not self.reverse_path.is_of(envelope.reverse_path):
            return False
        addresses = [envelope.recipients[n].address for n in recipients]
        return all(any(map(wanted.is_of, addresses)) for wanted in self.recipients)

    def of(self, parts: Sequence[Part], envelope: Callable[[], Envelope | None]) -> list[Part]:
        """Those of one message's parts that are meant.  `envelope` is asked only where a predicate
        is about it; None, when nobody knows it, is meant by none of these."""
        found = [part for part in parts if self.takes(part.word, part.open.destination)]
        if not found or not self.reads_envelopes:
            return found
        sent = envelope()
        if sent is None:
            return []
        return [part for part in found if self.takes_of(sent, part.open.recipients)]


class Found(NamedTuple):
    """Those parts of a message that are meant; none when it is not in the queue."""

    message_id: int
    parts: list[Part]


def read_selection(words: Sequence[str]) -> Selection:
    """Raises ConfigError for a word that is neither id nor predicate, or says a thing twice."""
    ids: dict[int, None] = {}
    said: dict[str, str] = {}
    recipients = []
    for word in words:
        kind, colon, value = word.partition(":")
        if not colon:
            ids[_id(word)] = None
        elif kind not in _EXAMPLES:
            known = ", ".join(f"{name}:" for name in _EXAMPLES)
            raise ConfigError(f"{word!r}: no predicate begins with {kind}:; known are {known}")
        elif not value:
            raise ConfigError(f"{word!r}: nothing behind the colon; write {_EXAMPLES[kind]}")
        elif kind == "to":
            recipients.append(_mailbox(word, value))
        elif kind in said:
            raise ConfigError(
                f"{word!r}: {kind}: is there twice, and nothing can be both; give one of them"
            )
        else:
            said[kind] = value
    if "state" in said and said["state"].lower() not in _STATES:
        raise ConfigError(f"'state:{said['state']}': no such state; write {_EXAMPLES['state']}")
    return Selection(
        tuple(ids),
        said["state"].lower() if "state" in said else None,
        _plain(said["domain"]) if "domain" in said else None,
        _mailbox(f"from:{said['from']}", said["from"]) if "from" in said else None,
        tuple(recipients),
    )


def _id(word: str) -> int:
    try:
        return message_id(word)
    except ValueError:
        raise ConfigError(
            f"{word!r} is no message id and no predicate; write 13 letters and digits, as the log "
            f"and events do, or {_EXAMPLES['domain']}"
        ) from None


def _mailbox(word: str, value: str) -> _Mailbox:
    kind = word.partition(":")[0]
    if value == "<>" and kind == "from":
        return _Mailbox("", "")
    local_part, at, domain = value.removeprefix("<").removesuffix(">").rpartition("@")
    if not at or not domain:
        raise ConfigError(f"{word!r}: no address, and no @domain; write {_EXAMPLES[kind]}")
    return _Mailbox("" if local_part == "*" else local_part, _plain(domain))


def _plain(domain: str) -> str:
    """As Recipient.domain."""
    return domain.lower().rstrip(".")

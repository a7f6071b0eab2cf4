"""What next hops said last, of as much mail as there is room for."""

from gwrelay.admin.lastwords import LastWords
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Settled
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.settlement import settle
from support.mail import DEFERRED, DELIVERED, IN_DOUBT

POLICY = RetryPolicy((60,), lifetime_s=1e6, jitter=0.0)


def end(words: LastWords, message_id: int, *told: Outcome, now: float = 5.0) -> None:
    """An attempt at one part, with a recipient for each of `told`."""
    delivery = Delivery(message_id, "b.test", tuple(range(len(told))), 0.0, False)
    outcomes = dict(enumerate(told))
    settlement = settle(delivery, outcomes, POLICY, now, 0.0)
    words.note(delivery, 1, outcomes, Settled(settlement, None, None), now)


def test_what_was_said_is_kept_until_the_next_attempt() -> None:
    words = LastWords()
    end(words, 1, DEFERRED)
    assert words.of(1, 0) is not None
    assert [str(said) for said in words.of(1, 0).said] == [
        "mx.test[192.0.2.1]: 450 4.2.1 greylisted"
    ]
    assert words.of(1, 0).ended_at == 5.0
    end(words, 1, DELIVERED)
    assert words.of(1, 0) is None
    assert words.of(2, 0) is None


def test_parts_that_fared_differently_have_their_own_words() -> None:
    words = LastWords()
    end(words, 1, DELIVERED, DEFERRED, IN_DOUBT, DEFERRED)
    assert words.of(1, 0) is None
    assert [said.reply for said in words.of(1, 1).said] == ["450 4.2.1 greylisted"]
    assert [said.reply for said in words.of(1, 2).said] == ["421 4.4.2 lost"]


def test_few_of_many_different_answers_are_kept() -> None:
    words = LastWords()
    told = [DEFERRED._replace(reply=Reply(450, "4.2.1", f"number {n}")) for n in range(9)]
    end(words, 1, *told)
    assert len(words.of(1, 0).said) == 3


def test_what_all_were_told_alike_is_remembered_as_it_was() -> None:
    words = LastWords()
    end(words, 1, DEFERRED, DEFERRED)
    end(words, 2, DEFERRED, DEFERRED._replace(reply=Reply(450, "4.2.1", "another")))
    assert words.outcome_of(1, 0) == DEFERRED
    assert words.outcome_of(2, 0) is None, "it would be in a wrong mouth"
    assert words.outcome_of(3, 0) is None
    end(words, 1, DELIVERED, DELIVERED)
    assert words.outcome_of(1, 0) is None


def test_the_oldest_are_forgotten_when_there_are_too_many() -> None:
    words = LastWords(limit=3)
    for message_id in (1, 2, 3, 1, 4):
        end(words, message_id, DEFERRED)
    assert [n for n in range(6) if words.of(n, 0) is not None] == [1, 3, 4]

"""The table of verdicts: every stage × every class of reply (RFC 5321 4.2, semantics of each)."""

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply

CODES = (0, 220, 250, 252, 354, 421, 450, 452, 500, 501, 502, 503, 504, 550, 552, 554, 555, 600)
OF_THE_HOST = ("dns", "connect", "banner", "ehlo", "starttls", "auth")
STAGES = (*OF_THE_HOST, "mail", "rcpt", "data", "content", "dot", "rset", "quit")

# One row a stage, one letter for each of CODES: "+" delivered, "~" deferred, "x" failed.
#             0    220  250  252  354  421  450  452  500 501 502 503 504 550 552 554 555  600
VERDICTS = {
    "dns":      "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "connect":  "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "banner":   "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "ehlo":     "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "starttls": "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "auth":     "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "mail":     "~  ~    ~    ~    ~    ~    ~    ~    x   x   x   x   x   x   x   x   x   ~",
    "rcpt":     "~  ~    ~    ~    ~    ~    ~    ~    x   x   x   x   x   x   x   x   x   ~",
    "data":     "~  ~    ~    ~    ~    ~    ~    ~    x   x   x   x   x   x   x   x   x   ~",
    "content":  "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "dot":      "~  +    +    +    ~    ~    ~    ~    x   x   x   x   x   x   x   x   x   ~",
    "rset":     "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
    "quit":     "~  ~    ~    ~    ~    ~    ~    ~    ~   ~   ~   ~   ~   ~   ~   ~   ~   ~",
}  # fmt: skip
LETTERS = {"+": Kind.DELIVERED, "~": Kind.DEFERRED, "x": Kind.FAILED}

# The same for the session: "." goes on, "!" must carry no other message.
#             0    220  250  252  354  421  450  452  500 501 502 503 504 550 552 554 555  600
SPOILED = {
    "data":     "!  !    !    !    .    !    .    .    !   !   !   !   !   .   .   .   !   !",
    "any other": "! .    .    .    !    !    .    .    !   !   !   !   !   .   .   .   !   !",
}  # fmt: skip


def test_the_table_has_every_stage() -> None:
    named = {
        value
        for name, value in vars(outcome).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    assert named == set(STAGES) == set(VERDICTS)


@pytest.mark.parametrize("stage", STAGES)
def test_every_reply_at_every_stage_has_its_verdict(stage: str) -> None:
    verdicts = [outcome.judge(stage, Reply(code, "", "text")) for code in CODES]
    assert verdicts == [LETTERS[letter] for letter in VERDICTS[stage].split()]


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_final_dot_delivers_and_only_by_a_2xx(stage: str) -> None:
    delivering = {
        code for code in range(1000) if outcome.judge(stage, Reply(code, "", "")) is Kind.DELIVERED
    }
    assert delivering == (set(range(200, 300)) if stage == "dot" else set())


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_but_a_5xx_about_the_message_fails_a_recipient(stage: str) -> None:
    failing = {
        code for code in range(1000) if outcome.judge(stage, Reply(code, "", "")) is Kind.FAILED
    }
    about_the_message = stage in ("mail", "rcpt", "data", "dot")
    assert failing == (set(range(500, 600)) if about_the_message else set())


def test_the_enhanced_status_does_not_overrule_the_code() -> None:
    assert outcome.judge("rcpt", Reply(450, "5.1.1", "")) is Kind.DEFERRED
    assert outcome.judge("dot", Reply(550, "2.0.0", "")) is Kind.FAILED


@pytest.mark.parametrize("stage", STAGES)
def test_a_session_is_spoiled_by_421_by_lost_step_and_by_not_being_understood(stage: str) -> None:
    spoils = [outcome.spoils_session(stage, Reply(code, "", "")) for code in CODES]
    row = SPOILED[stage if stage == "data" else "any other"]
    assert spoils == [letter == "!" for letter in row.split()]


@pytest.mark.parametrize(
    ("code", "ends"),
    [(0, True), (199, True), (250, False), (252, False), (354, True), (421, True), (450, False),
     (452, False), (501, False), (550, False), (555, False), (600, True)],
)  # fmt: skip
def test_a_transaction_ends_at_421_and_at_what_is_neither_yes_nor_no(code: int, ends: bool) -> None:
    assert outcome.ends_transaction(Reply(code, "", "")) is ends


def test_a_reply_becomes_an_outcome_that_says_who_spoke() -> None:
    reply = Reply(550, "5.1.1", "nobody")
    assert outcome.of_reply("rcpt", reply, "mx.example", "192.0.2.1") == Outcome(
        Kind.FAILED, "rcpt", reply, False, True, "mx.example", "192.0.2.1"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_lost_connection_defers_and_is_in_doubt_only_at_the_dot(stage: str) -> None:
    told = outcome.of_loss(ConnectionLost(stage, "timed out"), "mx.example", "192.0.2.1")

    assert told.kind is Kind.DEFERRED
    assert told.in_doubt is (stage == "dot")
    assert told.heard is False
    assert (told.stage, told.exchange, told.address) == (stage, "mx.example", "192.0.2.1")
    assert told.reply.is_temporary
    assert told.reply.status == ("4.4.1" if stage == "connect" else "4.4.2")
    assert "timed out" in told.reply.text
    assert ("possible duplicate" in told.reply.text) is (stage == "dot")


@pytest.mark.parametrize("stage", STAGES)
def test_our_own_verdict_goes_by_the_class_alone_and_was_not_heard(stage: str) -> None:
    failed = outcome.of_ours(stage, Reply(552, "5.3.4", "too large"))
    deferred = outcome.of_ours(stage, Reply(451, "4.4.3", "no answer"))
    assert (failed.kind, deferred.kind) == (Kind.FAILED, Kind.DEFERRED)
    assert not failed.heard
    assert not deferred.heard
    assert not failed.in_doubt

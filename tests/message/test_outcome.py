"""The table of verdicts: every stage × every class of reply (RFC 5321 4.2)."""

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.outcome import Host, Kind, Outcome, Verdict
from gwrelay.message.reply import Reply

STAGES = ("dns", "connect", "banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data",
          "content", "dot", "rset", "quit")  # fmt: skip

US = ("192.0.2.1", "2001:db8::1")

#: Replies that belong together, as "code status", or "code status text"; each is a column of the
#: table below.
COLUMNS = {
    "2xx": ("200", "220", "250 2.1.5", "251", "252", "299"),
    "354": ("354",),
    "4xx": ("400", "450 4.2.1", "451", "452 4.5.3", "454", "499", "450 5.1.1"),
    "421": ("421", "421 4.3.2"),
    "5xx": ("505", "521", "550", "550 5.1.1", "552 5.3.4", "554", "599", "550 2.0.0",
            "500 5.1.1", "501 5.1.3", "502 5.7.1", "503 5.7.0", "504 5.1.8", "555 5.6.7",
            "550 5.1.1 nobody here, 192.0.2.1", "552 5.2.2 full, 192.0.2.1",
            "550 5.7.1 192.0.2.11 or 1192.0.2.1 or 192.0.2.1.rbl.test or 2001:db8::1:2"),
    "us": ("550 5.7.1 client host [192.0.2.1] blocked", "554 5.7.0 see rbl.test/?ip=192.0.2.1",
           "521 5.3.2 from 192.0.2.1.", "553 5.7.1 [2001:DB8::1] is listed",
           "502 5.7.1 not you, 192.0.2.1"),
    "50x": ("500", "500 5.5.2", "501", "501 5.5.4", "502 5.5.1", "503 5.5.1", "504", "555 5.5.4"),
    "odd": ("0", "100", "150", "199", "300", "334", "353", "355", "399", "600", "999"),
}  # fmt: skip

# For the recipients: "." go on, "+" delivered, "~" deferred, "x" failed, "?" in doubt.
# For the host: "o" its mark is taken away, "-" nothing, "!" it is marked bad.
# For the session: "=" goes on, "#" carries no other message.
TABLE = """
            2xx  354  4xx  421  5xx  us   50x  odd  lost
  dns       ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
  connect   ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#  ~!#
  banner    .-=  ~!#  ~!#  ~!#  ~-#  ~-#  ~-#  ~!#  ~!#
  ehlo      .-=  ~!#  ~!#  ~!#  ~-=  ~-=  ~-=  ~!#  ~!#
  starttls  .-=  ~-#  ~-=  ~!#  ~-=  ~-=  ~-=  ~-#  ~-#
  auth      .-=  ~!#  ~!=  ~!#  ~!=  ~!=  ~!=  ~!#  ~!#
  mail      .o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~-#
  rcpt      .o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~o#
  data      ~o#  .o=  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ~o#
  content   ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#  ~o#
  dot       +o=  ~o#  ~o=  ~o#  xo=  ~o=  ~o#  ~o#  ?o#
  rset      .-=  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
  quit      .-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#  ~-#
"""
_HEAD, *_ROWS = (line.split() for line in TABLE.strip().splitlines())
CELLS = {
    (stage, column): cell for stage, *row in _ROWS for column, cell in zip(_HEAD, row, strict=True)
}
LETTERS = {Kind.DELIVERED: "+", Kind.DEFERRED: "~", Kind.FAILED: "x", None: "."}
MARKS = {Host.ALIVE: "o", Host.PASSED_OVER: "-", Host.BAD: "!"}


def reply(shorthand: str) -> Reply:
    code, status, text = (*shorthand.split(" ", 2), "", "text")[:3]
    return Reply(int(code), status, text)


def cell(verdict: Verdict) -> str:
    kind = "?" if verdict.in_doubt else LETTERS[verdict.kind]
    return kind + MARKS[verdict.host] + ("#" if verdict.closes else "=")


def test_the_table_has_every_stage() -> None:
    named = {
        value
        for name, value in vars(outcome).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    }
    assert named == set(STAGES) == {stage for stage, _ in CELLS}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("column", COLUMNS)
def test_every_reply_at_every_stage_has_its_verdict(stage: str, column: str) -> None:
    found = {said: cell(outcome.verdict_on(stage, reply(said), US)) for said in COLUMNS[column]}
    assert found == dict.fromkeys(COLUMNS[column], CELLS[stage, column])


@pytest.mark.parametrize("stage", STAGES)
def test_every_loss_has_its_verdict(stage: str) -> None:
    assert cell(outcome.verdict_on_loss(stage)) == CELLS[stage, "lost"]


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
    about_the_command = {500, 501, 502, 503, 504, 555}
    about_the_message = stage in ("mail", "rcpt", "data", "dot")
    assert failing == (set(range(500, 600)) - about_the_command if about_the_message else set())


def test_the_enhanced_status_does_not_overrule_the_code() -> None:
    assert outcome.judge("rcpt", Reply(450, "5.1.1", "")) is Kind.DEFERRED
    assert outcome.judge("dot", Reply(550, "2.0.0", "")) is Kind.FAILED


@pytest.mark.parametrize(
    ("code", "ends"),
    [(0, True), (199, True), (250, False), (252, False), (354, True), (421, True), (450, False),
     (452, False), (501, False), (550, False), (555, False), (600, True)],
)  # fmt: skip
def test_a_transaction_ends_at_421_and_at_what_is_neither_yes_nor_no(code: int, ends: bool) -> None:
    assert outcome.ends_transaction(Reply(code, "", "")) is ends


def test_a_reply_becomes_an_outcome_that_says_who_spoke() -> None:
    said = Reply(550, "5.1.1", "nobody")
    assert outcome.of_reply("rcpt", said, "mx.example", "192.0.2.1") == Outcome(
        Kind.FAILED, "rcpt", said, False, True, "mx.example", "192.0.2.1"
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


@pytest.mark.parametrize(
    ("reply", "at"),
    [
        (Reply(250, "", "yes"), {outcome.DATA}),
        (Reply(354, "", "go"), set(outcome._VERDICTS) - {outcome.DATA}),
        (Reply(399, "", "what"), set(outcome._VERDICTS)),
        (Reply(502, "", "no such command"), {*["mail", "rcpt", "data", "dot"]}),
        (Reply(503, "5.5.1", "out of order"), {*["mail", "rcpt", "data", "dot"]}),
        (Reply(555, "5.5.4", "parameters"), {*["mail", "rcpt", "data", "dot"]}),
        (Reply(501, "5.1.3", "no such address"), set()),
        (Reply(550, "", "no such user"), set()),
        (Reply(450, "", "later"), set()),
        (Reply(421, "", "going"), set()),
    ],
    ids=str,
)
def test_what_breaks_the_protocol_at_which_stage(reply: Reply, at: set[str]) -> None:
    broken = {stage for stage in outcome._VERDICTS if outcome.breaks_protocol(stage, reply)}
    assert broken == at

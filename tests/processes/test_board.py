"""What workers show each other through a page of memory that they share."""

import os

import pytest

from gwrelay.processes.board import Board, new_board


@pytest.fixture
def boards() -> tuple[Board, Board]:
    """The same one twice, as two processes have it."""
    descriptor = new_board(3)
    both = Board(descriptor, 3), Board(descriptor, 3)
    os.close(descriptor)
    return both


def test_what_one_writes_another_reads(boards: tuple[Board, Board]) -> None:
    ours, theirs = boards
    ours.column(1).beat(12.5)
    assert [theirs.column(n).beat_at for n in range(3)] == [0.0, 12.5, 0.0]


def clients(board: Board, *counts: int | None) -> None:
    """So many clients in each column; None: this one takes none."""
    for number, count in enumerate(counts):
        column = board.column(number)
        column.clear()
        if count is not None:
            column.open()
            for _ in range(count):
                column.add_client()


@pytest.mark.parametrize(
    ("counts", "too_many"),
    [
        ((0, 0, 0), []),
        ((2, 0, 0), []),  # they come and go, and an even number is not worth a wait
        ((3, 0, 0), [0]),
        ((3, 3, 0), [0, 1]),
        ((13, 10, 11), [0]),
        ((13, 11, 11), []),
        ((50, None, None), []),
        ((50, 49, None), []),
        ((None, None, None), []),
    ],
)
def test_the_next_client_is_for_another_who_has_three_fewer(
    boards: tuple[Board, Board], counts: tuple[int | None, ...], too_many: list[int]
) -> None:
    clients(boards[0], *counts)
    assert [n for n in range(3) if boards[1].column(n).has_too_many] == too_many


def test_all_clients_are_counted_but_those_of_the_dead(boards: tuple[Board, Board]) -> None:
    clients(boards[0], 3, 4, None)
    assert boards[1].column(2).everybodys_clients == 7
    boards[1].column(0).clear()
    assert boards[0].column(1).everybodys_clients == 4


def test_one_that_is_cleared_has_no_beat(boards: tuple[Board, Board]) -> None:
    boards[0].column(2).beat(3.0)
    boards[1].column(2).clear()
    assert boards[0].column(2).beat_at == 0.0


def test_a_client_that_leaves_is_counted_no_more(boards: tuple[Board, Board]) -> None:
    clients(boards[0], 2, 0, None)
    boards[0].column(0).remove_client()
    assert boards[1].column(1).everybodys_clients == 1

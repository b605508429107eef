"""Slices hold a batch: each picture once, beside its partner."""

from hypothesis import given
from hypothesis import strategies as st

from vitkit.data.slices import Slices


@given(st.integers(1, 70), st.integers(1, 6), st.integers(1, 5))
def test_slices_hold_every_picture_once_and_the_partner_of_each(size: int, processes: int, accumulate: int) -> None:
    slices = [
        Slices(process, processes, accumulate).rows(turn, size).tolist()
        for process in range(processes)
        for turn in range(accumulate)
    ]
    assert sorted(row for rows in slices for row in rows) == list(range(size))
    for rows in slices:
        assert [size - 1 - row for row in rows] == rows[::-1]  # so that a flip of the slice is the flip of the batch
    lengths = [len(rows) for rows in slices]
    assert max(lengths) - min(lengths) <= 3  # a pair, and the middle


def test_one_slice_is_the_batch_as_it_is() -> None:
    assert Slices().rows(0, 7).tolist() == list(range(7))

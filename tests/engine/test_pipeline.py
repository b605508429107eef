"""Results in order, from threads that never run far ahead, and that end with whoever reads them."""

import _thread
import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from vitkit.engine.pipeline import batched, in_order


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vitkit")]


def test_results_keep_the_order_of_the_items_whatever_each_takes() -> None:
    def slowly(item: int) -> int:
        time.sleep(0.004 if item % 3 else 0)
        return item * item

    for threads in (0, 1, 2, 5):
        assert list(in_order(slowly, range(40), threads=threads)) == [item * item for item in range(40)]
    assert list(in_order(slowly, [], threads=2)) == []


def test_threads_work_at_the_same_time() -> None:
    """Each of the three waits for the two others: one thread less, and none would ever go on."""
    together = threading.Barrier(3, timeout=20)
    assert len(list(in_order(lambda _: together.wait(), range(12), threads=3))) == 12


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 1), (3, 5)])
def test_items_are_drawn_in_the_callers_thread_and_few_are_held(threads: int, ahead: int) -> None:
    drawn = given = most = 0
    drawers = set()

    def stream() -> Iterator[int]:
        nonlocal drawn, most
        for item in range(200):
            drawers.add(threading.current_thread())
            drawn += 1
            most = max(most, drawn - given)
            yield item

    def work(item: int) -> int:
        time.sleep(0.001)
        return item

    for _ in in_order(work, stream(), threads=threads, ahead=ahead):
        given += 1
        assert drawn - given < threads + ahead
    assert drawers == {threading.current_thread()} and most == threads + ahead


def test_a_ready_result_comes_before_another_item_is_drawn() -> None:
    ready = threading.Event()
    given: list[int] = []

    def stream() -> Iterator[int]:
        yield 0
        assert ready.wait(20)
        time.sleep(0.05)  # for the result to arrive at its future
        yield 1
        assert given == [0]

    def work(item: int) -> int:
        ready.set()
        return item

    for item in in_order(work, stream(), threads=2, ahead=10):
        given.append(item)
    assert given == [0, 1]


def test_without_threads_each_result_comes_before_the_next_item_is_drawn() -> None:
    given: list[int] = []

    def stream() -> Iterator[int]:
        for item in range(3):
            assert given == list(range(item))
            yield item

    for item in in_order(lambda item: item, stream(), threads=0, ahead=10):
        given.append(item)
    assert given == [0, 1, 2]


def test_an_error_comes_in_its_place_and_ends_the_threads() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    results = in_order(work, itertools.count(), threads=2)
    assert list(itertools.islice(results, 5)) == list(range(5))
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert not ours()


def test_an_error_of_the_stream_reaches_the_caller() -> None:
    def stream() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    results = in_order(lambda item: item, stream(), threads=2)
    assert next(results) == 1  # what was drawn before it isn't lost
    with pytest.raises(OSError, match="no more"):
        next(results)
    assert not ours()


def test_an_interrupt_of_the_stream_is_raised_at_once_and_nothing_more_is_begun() -> None:
    release = threading.Event()
    timer = threading.Timer(0.3, release.set)
    begun: list[int] = []

    def stream() -> Iterator[int]:
        yield from range(5)
        timer.start()
        raise KeyboardInterrupt

    def work(item: int) -> int:
        begun.append(item)
        assert release.wait(20)
        raise ValueError("an error that would take its place")

    with pytest.raises(KeyboardInterrupt):
        list(in_order(work, stream(), threads=1, ahead=10))
    timer.join()
    assert begun == [0] and not ours()


def test_closing_ends_the_threads_and_what_hasnt_begun_never_does() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)

    results = in_order(work, itertools.count(), threads=2, ahead=50)
    next(results)
    results.close()
    assert not ours()
    assert len(begun) < 10


def test_ctrl_c_interrupts_the_wait() -> None:
    release = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            _thread.interrupt_main()
            assert release.wait(20)

    timer = threading.Timer(0.3, release.set)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(in_order(work, range(3), threads=1))
    timer.join()
    assert not ours()


def test_batches_are_full_but_the_last() -> None:
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


def test_what_a_stream_gave_before_its_error_is_in_the_last_batch() -> None:
    def stream() -> Iterator[int]:
        yield from range(5)
        raise OSError("no more")

    batches = batched(stream(), 3)
    assert [next(batches), next(batches)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(OSError, match="no more"):
        next(batches)

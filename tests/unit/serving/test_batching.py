"""Which requests form the next batch: no request is lost, none waits for what it need not wait for."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.batching import Batch, Full, Limits, Line, Ticket, part_sizes

LIMITS = Limits(max_rows=8, queue_rows=1000, workers=2)


class Asked(Ticket):
    """A request with a name."""

    def __init__(self, name: str, rows: int = 1, key: object = None, **others: float) -> None:
        super().__init__(key=key, rows=rows, arrived=others.pop("arrived", 0.0), **others)
        self.name = name

    def __repr__(self) -> str:
        return self.name


def line(*asked: Asked, limits: Limits = LIMITS) -> Line[Asked]:
    made = Line[Asked](limits)
    enter(made, *asked)
    return made


def enter(into: Line[Asked], *asked: Asked) -> None:
    for one in asked:
        into.admit(one.rows)
        into.add(one)


def names(batch: Batch[Asked] | float | None) -> list[str]:
    assert isinstance(batch, Batch)
    return [part.ticket.name for part in batch.parts]


def rows_of(batch: Batch[Asked] | float | None) -> list[tuple[str, int, int]]:
    assert isinstance(batch, Batch)
    return [(part.ticket.name, part.start, part.stop) for part in batch.parts]


def taken(from_line: Line[Asked], now: float = 0.0) -> Batch[Asked]:
    batch = from_line.next(now)
    assert isinstance(batch, Batch)
    return batch


def test_a_lone_request_goes_at_once_whatever_the_window() -> None:
    assert names(line(Asked("a"), limits=replace(LIMITS, window_s=1.0)).next(0.0)) == ["a"]


def test_what_waits_together_goes_together() -> None:
    assert names(line(Asked("a"), Asked("b", 3), Asked("c")).next(0.0)) == ["a", "b", "c"]


def test_no_batch_has_more_rows_than_the_limit() -> None:
    waiting = line(Asked("a", 5), Asked("b", 3), Asked("c"))
    assert names(waiting.next(0.0)) == ["a", "b"]
    assert names(waiting.next(0.0)) == ["c"]


def test_a_request_that_does_not_fit_any_more_is_not_overtaken_within_its_shape() -> None:
    waiting = line(Asked("a", 6), Asked("b", 5), Asked("c"))
    assert names(waiting.next(0.0)) == ["a"]
    assert names(waiting.next(0.0)) == ["b", "c"]


def test_no_more_batches_are_out_than_there_are_workers() -> None:
    waiting = line(*(Asked(name, 8) for name in "abc"))
    first, _ = taken(waiting), taken(waiting)
    assert waiting.next(0.0) is None
    waiting.done(first)
    assert names(waiting.next(0.0)) == ["c"]


def test_other_shapes_are_batched_apart_and_the_longest_wait_goes_first() -> None:
    waiting = line(Asked("a", key=16), Asked("b", key=32), Asked("c", key=16))
    assert names(waiting.next(0.0)) == ["a", "c"]
    assert names(waiting.next(0.0)) == ["b"]


def test_a_large_request_takes_turns_with_the_small_ones_behind_it() -> None:
    waiting = line(Asked("large", 20), Asked("a"), Asked("b", 8), limits=replace(LIMITS, workers=9))
    assert [rows_of(waiting.next(0.0)) for _ in range(4)] == [
        [("large", 0, 7), ("a", 0, 1)],
        [("b", 0, 8)],
        [("large", 7, 14)],
        [("large", 14, 20)],
    ]


def test_large_requests_take_turns() -> None:
    waiting = line(Asked("a", 16), Asked("b", 16), limits=replace(LIMITS, workers=9))
    assert [names(waiting.next(0.0)) for _ in range(4)] == [["a"], ["b"], ["a"], ["b"]]


def heavy(name: str, **others: float) -> Asked:
    return Asked(name, key=name, work=100.0, seconds=1.0, **others)


def test_a_heavy_request_never_takes_the_last_free_worker() -> None:
    waiting = line(Asked("light"), heavy("h1"), heavy("h2"))
    waiting.done(taken(waiting))
    assert names(waiting.next(0.0)) == ["h1"]
    assert waiting.next(0.0) is None
    enter(waiting, Asked("late"))
    assert names(waiting.next(0.0)) == ["late"]


def test_heavy_requests_take_all_workers_when_no_light_one_came_lately() -> None:
    waiting = line(Asked("light"), heavy("h1"), heavy("h2"))
    waiting.done(taken(waiting))
    assert [names(waiting.next(1000.0)) for _ in range(2)] == [["h1"], ["h2"]]


def test_heavy_and_light_requests_of_one_shape_share_no_batch() -> None:
    waiting = line(Asked("light"), Asked("heavy", work=100.0, seconds=1.0), Asked("light too"))
    assert names(waiting.next(0.0)) == ["light", "light too"]
    assert names(waiting.next(0.0)) == ["heavy"]


def test_what_is_quick_is_not_heavy_however_much_larger_it_is() -> None:
    waiting = line(Asked("small"), Asked("large", work=1e6, seconds=0.001))
    assert names(waiting.next(0.0)) == ["small", "large"]


def test_what_is_usual_is_not_heavy() -> None:
    many = [heavy(f"h{index}") for index in range(200)]
    line(Asked("light"), *many)
    assert many[0].heavy
    assert not many[-1].heavy


def test_with_one_worker_heavy_requests_are_served_too() -> None:
    waiting = line(Asked("light"), heavy("h"), limits=replace(LIMITS, workers=1))
    waiting.done(taken(waiting))
    assert names(waiting.next(0.0)) == ["h"]


def test_the_window_counts_while_a_worker_is_busy() -> None:
    waiting = line(Asked("a"), limits=replace(LIMITS, window_s=0.5))
    first = taken(waiting)
    enter(waiting, Asked("b", arrived=1.0))
    assert waiting.next(1.1) == 1.5
    assert names(waiting.next(1.5)) == ["b"]
    enter(waiting, Asked("c", arrived=2.0))
    assert waiting.next(2.0) is None  # both workers are busy: there is nothing to wait for but them
    waiting.done(first)
    assert waiting.next(2.0) == 2.5


def test_a_full_batch_does_not_wait_for_the_window() -> None:
    waiting = line(Asked("a"), limits=replace(LIMITS, window_s=0.5))
    taken(waiting)
    enter(waiting, Asked("b", 5), Asked("c", 3))
    assert names(waiting.next(0.0)) == ["b", "c"]


def test_a_request_whose_deadline_is_over_costs_nothing() -> None:
    waiting = line(Asked("a", deadline=1.0), Asked("b"), Asked("c", deadline=1.0))
    assert names(waiting.next(1.0)) == ["b"]
    assert waiting.rows == 0


def test_a_request_that_was_removed_is_not_run_and_makes_room() -> None:
    gone = Asked("gone", 20)
    waiting = line(gone, Asked("b"))
    assert rows_of(waiting.next(0.0)) == [("gone", 0, 7), ("b", 0, 1)]
    waiting.remove(gone)
    waiting.remove(gone)
    assert waiting.rows == 0
    assert waiting.next(0.0) is None


def test_a_full_line_takes_no_more_and_says_how_many_rows_are_too_many() -> None:
    waiting = line(Asked("a", 7), limits=replace(LIMITS, queue_rows=10))
    with pytest.raises(Full) as caught:
        waiting.admit(5)
    assert (caught.value.waiting, caught.value.surplus) == (7, 2)
    waiting.admit(3)


def test_an_empty_line_takes_a_request_of_any_size() -> None:
    line(Asked("a", 5000), limits=replace(LIMITS, queue_rows=10))


def test_room_that_was_not_used_is_given_back() -> None:
    waiting = line(limits=replace(LIMITS, queue_rows=10))
    waiting.admit(10)
    waiting.leave(10)
    waiting.admit(10)


def test_at_the_end_everything_that_waits_is_handed_out() -> None:
    waiting = line(Asked("a", 20), Asked("b", key=1), heavy("h"))
    taken(waiting)
    assert {ticket.name for ticket in waiting.clear()} == {"a", "b", "h"}
    assert waiting.rows == 0


@pytest.mark.parametrize(
    ("rows", "least", "sizes"),
    [
        (0, 1, (0,)),
        (1, 1, (1,)),
        (8, 1, (8,)),
        (9, 1, (5, 4)),
        (20, 1, (7, 7, 6)),
        (12, 5, (6, 6)),
        (9, 5, (9,)),
        (17, 6, (9, 8)),
        (8, 8, (8,)),
        (15, 8, (15,)),
    ],
)
def test_parts_are_nearly_equal_and_none_is_below_what_the_model_takes(
    rows: int, least: int, sizes: tuple[int, ...]
) -> None:
    assert part_sizes(rows, replace(LIMITS, min_rows=least)) == sizes


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_parts_add_up(rows: int, most: int, least: int) -> None:
    sizes = part_sizes(rows, Limits(max(most, least), 1000, 2, min_rows=min(most, least, rows)))
    assert sum(sizes) == rows
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(most, least, rows)


class AnyOrder(RuleBasedStateMachine):
    """Requests come, batches end, time passes, in any order: every row is run exactly once, unless its request went."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line[Asked](Limits(max_rows=8, queue_rows=60, workers=3, min_rows=2, window_s=1.0))
        self.now = 0.0
        self.asked: list[Asked] = []
        self.out: list[Batch[Asked]] = []
        self.ran: Counter[tuple[str, int]] = Counter()
        self.last: dict[tuple[bool, object], int] = {}

    @rule(
        rows=st.integers(2, 30),
        key=st.sampled_from("xy"),
        patience=st.none() | st.floats(0.1, 5),
        work=st.sampled_from([1.0, 1000.0]),
    )
    def ask(self, rows: int, key: str, patience: float | None, work: float) -> None:
        deadline = None if patience is None else self.now + patience
        one = Asked(f"r{len(self.asked)}", rows, key, arrived=self.now, deadline=deadline, work=work, seconds=1.0)
        before = self.line.rows
        try:
            enter(self.line, one)
        except Full:
            assert before + rows > 60
        else:
            assert not before or before + rows <= 60
            self.asked.append(one)

    @rule()
    def take(self) -> None:
        waiting = self.line.rows
        batch = self.line.next(self.now)
        if isinstance(batch, float):
            assert batch > self.now
            assert self.out
        if not isinstance(batch, Batch):
            return
        assert len(self.out) < 3
        assert batch.rows <= 8 or len(batch.parts) == 1
        assert {(part.ticket.key, part.ticket.heavy) for part in batch.parts} == {
            (batch.parts[0].ticket.key, batch.heavy)
        }
        for part in batch.parts:
            assert part.rows >= 2
            assert part.ticket.deadline is None or self.now < part.ticket.deadline
            assert not part.ticket.gone
            self.ran.update((part.ticket.name, row) for row in range(part.start, part.stop))
        assert self.line.rows <= waiting - batch.rows
        self.out.append(batch)
        assert not batch.heavy or sum(one.heavy for one in self.out) < 3 or self.now - self.newest_light() >= 10

    @precondition(lambda self: self.out)
    @rule(index=st.integers(0, 9))
    def end(self, index: int) -> None:
        self.line.done(self.out.pop(index % len(self.out)))

    @precondition(lambda self: self.asked)
    @rule(index=st.integers(0, 99))
    def go(self, index: int) -> None:
        self.line.remove(self.asked[index % len(self.asked)])

    @rule(seconds=st.floats(0.01, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def newest_light(self) -> float:
        return max((one.arrived for one in self.asked if not one.heavy), default=-math.inf)

    @invariant()
    def no_row_is_run_twice(self) -> None:
        assert not self.ran or max(self.ran.values()) == 1

    @invariant()
    def rows_that_wait_are_counted(self) -> None:
        assert self.line.rows == sum(one.rows - one.given for one in self.asked if not one.gone)

    def teardown(self) -> None:
        for _ in range(1000):
            while self.out:
                self.line.done(self.out.pop())
            self.take()
            if not self.out:
                break
        assert self.line.rows == 0
        for one in self.asked:
            ran = sum(self.ran[one.name, row] for row in range(one.rows))
            assert ran == one.rows or one.gone, one
            assert not one.gone or ran == one.given < one.rows


TestAnyOrder = AnyOrder.TestCase

"""Which operator is the first to differ, and which add most: graphs of a few places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.parity.divergence.judge import Place, first, outstanding, trusted, worst


def place(whole: float, *upstream: int, alone: float | None = None, output: bool = False) -> Place:
    return Place(whole, alone, upstream, output)


def test_the_first_is_the_one_whose_inputs_do_not_differ() -> None:
    assert first([place(0.1), place(0.3, 0), place(40, 1), place(90, 2, output=True)]) == 2


def test_a_branch_that_agrees_does_not_hide_one_that_differs() -> None:
    assert first([place(0.1), place(5, 0), place(0.1, 0), place(7, 1, 2, output=True)]) == 1


def test_of_two_faults_the_one_that_is_computed_first_is_named() -> None:
    places = [place(0.1), place(8, 0, alone=8), place(0.2, 0), place(50, 2, alone=50), place(60, 1, 3, output=True)]
    assert first(places) == 1


def test_a_difference_that_reaches_no_output_is_another_value_of_the_same_name() -> None:
    places = [place(1e30), place(0.2, 0), place(30, 1), place(30, 2, output=True)]
    assert first(places) == 2
    assert worst(places, 5) == (2,)
    assert trusted(places) == {1, 2, 3}


def test_nothing_differs_where_no_output_does() -> None:
    assert first([place(1e30), place(0.2, 0, output=True)]) is None


def test_a_difference_that_was_within_what_is_allowed_is_traced_back_to_where_it_was_made() -> None:
    """The rounding of a whole way hides what an operator that is asked alone shows."""
    places = [place(0.1, alone=0.1), place(0.9, 0, alone=30), place(0.8, 1, alone=0.1), place(3, 2, alone=0.2)]
    assert first([*places, place(4, 3, alone=0.1, output=True)]) == 1


def test_a_difference_that_dies_out_before_the_output_is_found_where_it_was_passed_on() -> None:
    assert first([place(0.1), place(900, 0), place(30, 1), place(0.5, 2, output=True)]) == 1


def test_where_parity_is_finer_than_the_whole_value_the_operator_alone_decides() -> None:
    assert first([place(0.1, alone=0.2), place(0.7, 0, alone=4), place(0.7, 1, alone=0.1, output=True)]) == 1


def test_the_worst_are_ranked_by_what_they_add() -> None:
    places = [place(0.1), place(100, 0), place(300, 1), place(1500, 2), place(1500, 3, output=True)]
    assert worst(places, 3) == (1, 3, 2)


def test_asked_alone_an_operator_adds_what_it_does_itself() -> None:
    places = [place(100, alone=100), place(900, 0, alone=2), place(1000, 1, alone=500, output=True)]
    assert worst(places, 2) == (2, 0)


def test_in_reduced_precision_a_layer_stands_out_or_none_does() -> None:
    even = [place(100, alone=100), place(150, 0, alone=120), place(200, 1, alone=90, output=True)]
    assert outstanding(even, ["a", "b", "c"]) is None
    one = [place(100, alone=100), place(5000, 0, alone=4000), place(5000, 1, alone=90, output=True)]
    assert outstanding(one, ["a", "b", "c"]) == 1
    assert outstanding(even, ["a", "a", "a"]) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 7), st.floats(1.01, 1e6))
def test_in_a_chain_the_first_that_differs_is_found_wherever_it_is(clean: list[float], at: int, margin: float) -> None:
    at %= len(clean)
    chain = [*clean[:at], margin, *(margin for _ in clean[at:])]
    places = [
        Place(whole, None, (number - 1,) if number else (), number == len(chain) - 1)
        for number, whole in enumerate(chain)
    ]
    assert first(places) == at

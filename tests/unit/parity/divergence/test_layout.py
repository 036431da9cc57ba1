"""Which operator moved the axes of a value: chains of a few operators, and what each takes."""

from __future__ import annotations

import pytest

from tasks.parity.divergence.layout import Axes, moved_before
from tasks.parity.divergence.onnx_graph import Operator
from tasks.parity.divergence.pairing import Pair
from tasks.parity.divergence.source_values import SourceValue

AS_IT_IS, MOVED = (0, 1, 2, 3), (0, 2, 3, 1)


def moved_in(*chain: tuple[str, Axes]) -> int | None:
    """Each value: the operators on the way to it, and its axes. Asked from the last on."""
    pairs = []
    for number, (kinds, _) in enumerate(chain):
        way = tuple(Operator(index, kind, "", (), (f"v{number}",)) for index, kind in enumerate(kinds.split()))
        source = SourceValue(f"s{number}", "", "", "", (), {})
        pairs.append(Pair(f"v{number}", way[-1], source, (number - 1,) if number else (), way, ()))
    return moved_before(len(pairs) - 1, pairs, [axes for _, axes in chain])


def test_the_transpose_in_front_of_the_flattening() -> None:
    assert moved_in(("Conv", AS_IT_IS), ("Transpose", MOVED), ("Reshape", None)) == 1


def test_a_transpose_that_is_on_the_way_to_a_named_value() -> None:
    assert moved_in(("Conv Transpose", MOVED), ("Reshape", None)) == 0


def test_element_wise_operators_in_between_are_passed_over() -> None:
    assert moved_in(("Conv", AS_IT_IS), ("Transpose Relu", MOVED), ("Sigmoid", MOVED), ("Reshape", None)) == 1


@pytest.mark.parametrize("layers", [["Transpose Conv"], ["Transpose Conv", "Relu"], ["Transpose", "Conv"]])
def test_a_layout_in_which_layers_are_computed_is_the_files_own(layers: list[str]) -> None:
    assert moved_in(*((kinds, MOVED) for kinds in layers), ("Reshape", None)) is None


def test_nothing_was_moved() -> None:
    assert moved_in(("Conv", AS_IT_IS), ("Relu", AS_IT_IS), ("Reshape", None)) is None
    assert moved_in(("Conv", None), ("Reshape", None)) is None

"""Whole numbers that are rounded floats: what the format's noise in the float lets them become, and no more."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from serving.contract import DType, TensorSpec
from tasks.parity.whole_numbers import Rounded, is_continuous, with_unrounded


def allowed(expected: int, unrounded: float, reach: float, operator: str = "Floor") -> float:
    rounded = Rounded("level", "level/unrounded", operator)
    return float(rounded.allowed(np.array([expected]), np.array([unrounded]), np.array(reach))[0])


@pytest.mark.parametrize(
    ("operator", "unrounded", "expected", "far"),
    [("Floor", 3.05, 3, 1), ("Floor", 3.5, 3, 0), ("Ceil", 3.05, 4, 1), ("Round", 3.45, 3, 1), ("Cast", -0.5, 0, 0)],
)
def test_only_a_float_beside_a_threshold_may_become_the_next_number(
    operator: str, unrounded: float, expected: int, far: int
) -> None:
    assert allowed(expected, unrounded, 0.1, operator) == far


def test_a_float_that_moves_by_several_may_become_any_number_on_its_way() -> None:
    assert allowed(100, 100.5, 6.9) == 7


def test_a_number_that_wrapped_around_is_none_of_them() -> None:
    assert allowed(254, -2.0, 1.0) == 0


def test_values_that_differ_in_every_draw_are_continuous_and_a_few_that_come_again_are_not() -> None:
    generator = np.random.default_rng(0)
    draws = list(generator.normal(size=(8, 40, 3)))
    assert is_continuous(draws)
    assert is_continuous([np.maximum(draw, 0) for draw in generator.normal(3, 1, size=(8, 40, 3))])
    assert not is_continuous([np.sign(draw) for draw in draws])
    assert not is_continuous([np.ones(3)] * 8)


def graph(body: str, kind: str = "uint8") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : 20]>\nnet (float[n, 2] x) => ({kind}[n, 2] y) {{ {body} }}'
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        ("y = Cast <to = 2> (x)", "Cast"),
        ("r = Round (x) y = Cast <to = 2> (r)", "Round"),
        ("r = Floor (x) c = Clip (r) y = Cast <to = 2> (c)", "Floor"),
        ("c = Cast <to = 2> (x) t = Transpose <perm = [0, 1]> (c) y = Identity (t)", "Cast"),
        ("b = Cast <to = 9> (x) y = Cast <to = 2> (b)", None),
        ("a = ArgMax <keepdims = 1, axis = 1> (x) y = Cast <to = 2> (a)", None),
        ("c = Cast <to = 2> (x) y = Add (c, c)", None),
    ],
)
def test_the_float_behind_a_whole_number_is_found_where_nothing_but_rounding_lies_between(
    body: str, operator: str | None
) -> None:
    changed, found = with_unrounded(graph(body), (TensorSpec("y", DType.UINT8, ("n", 2)),))
    assert [each.operator for each in found] == ([] if operator is None else [operator])
    x = np.array([[0.25, 2.75], [7.5, 3.5]], dtype=np.float32)
    floats = ReferenceEvaluator(changed).run([each.unrounded for each in found], {"x": x})
    assert all(np.array_equal(given, x) for given in floats)

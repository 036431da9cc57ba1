"""What can be seen of the cause: settings, weights, a normalisation that was folded, another layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.parity.divergence.explain import difference, known
from tasks.parity.divergence.folding import blame
from tasks.parity.divergence.onnx_graph import Operator
from tasks.parity.divergence.places import FAR, hold
from tasks.parity.divergence.quantised import Held
from tasks.parity.divergence.source_values import SourceValue, allowance, change
from tasks.parity.divergence.weights import altered

GENERATOR = np.random.default_rng(0)


def said(kind: str, operator: str, attributes: dict[str, Any], **settings: Any) -> str:
    source = SourceValue("v", "block.norm", kind, f"aten.{kind.lower()}", (), settings)
    return difference(source, [Operator(0, operator, "", ("x",), ("v",), attributes)], {}, 4)


@pytest.mark.parametrize(
    ("kind", "operator", "attributes", "settings", "words"),
    [
        ("LayerNorm", "LayerNormalization", {"epsilon": 1e-3}, {"eps": 1e-5}, "epsilon is 0.001, the module's 1e-05"),
        ("LayerNorm", "LayerNormalization", {}, {"eps": 1e-6}, "epsilon is 1e-05, the module's 1e-06"),
        ("GELU", "Gelu", {"approximate": "tanh"}, {"approximate": "none"}, "approximation is tanh"),
        ("GELU", "Gelu", {}, {"approximate": "tanh"}, "approximation is none, the module's tanh"),
        ("Softmax", "Softmax", {"axis": 1}, {"dim": -1}, "axis is 1, the module's -1"),
        ("BatchNorm2d", "BatchNormalization", {"training_mode": 1}, {"eps": 1e-5}, "training mode is 1"),
        ("Upsample", "Resize", {"coordinate_transformation_mode": "align_corners"}, {"align_corners": False},
         "align_corners is False"),
        ("LeakyReLU", "LeakyRelu", {"alpha": 0.2}, {"negative_slope": 0.01}, "slope is 0.2, the module's 0.01"),
    ],
)  # fmt: skip
def test_a_setting_that_differs_is_said(
    kind: str, operator: str, attributes: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    assert words in said(kind, operator, attributes, **settings)


@pytest.mark.parametrize(
    ("kind", "operator", "attributes", "settings"),
    [
        ("LayerNorm", "LayerNormalization", {"epsilon": float(np.float32(1e-5))}, {"eps": 1e-5}),
        ("Softmax", "Softmax", {"axis": 3}, {"dim": -1}),
        ("GELU", "Gelu", {}, {"approximate": "none"}),
        ("Upsample", "Resize", {"coordinate_transformation_mode": "half_pixel"}, {"align_corners": False}),
        ("Linear", "Gemm", {}, {}),
    ],
)
def test_settings_that_agree_are_not_blamed(
    kind: str, operator: str, attributes: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert said(kind, operator, attributes, **settings) == ""


def test_what_is_known_of_a_kind_is_said_where_nothing_can_be_seen() -> None:
    source = SourceValue("v", "gate", "GRU", "aten.gru.input", (), {})
    assert "gates" in known(source, [Operator(0, "GRU", "", (), ("v",))])


def test_a_spelled_out_gelu_is_known_by_what_it_is_made_of() -> None:
    source = SourceValue("v", "act", "GELU", "aten.gelu.default", (), {"approximate": "none"})
    operators = [Operator(number, kind, "", (), ("v",)) for number, kind in enumerate(("Mul", "Tanh", "Mul"))]
    assert "tanh approximation" in difference(source, operators, {}, 2)


def test_an_epsilon_that_is_added_as_a_constant_is_read() -> None:
    source = SourceValue("v", "norm", "LayerNormalization", "AddV2", (), {"epsilon": 1e-3})
    operators = [Operator(0, "Add", "", ("variance", "e"), ("v",))]
    assert "epsilon is 0.01" in difference(source, operators, {"e": np.array([0.01], np.float32)}, 2)


# --- weights ------------------------------------------------------------------------------------------------------


def test_a_transposed_weight_is_the_same_weight_and_an_altered_one_is_not() -> None:
    weight = GENERATOR.normal(size=(4, 3)).astype(np.float32)
    modules = {"head": {"weight": weight}}
    assert altered(Held({"w": weight.T}), modules) == ()
    other = weight.T.copy()
    other[1, 2] += 0.5
    (found,) = altered(Held({"w": other}), modules)
    assert (found.module, found.parameter, round(found.difference, 3)) == ("head", "weight", 0.5)


def folded(epsilon: float = 1e-5) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    conv = {"weight": GENERATOR.normal(size=(4, 3, 3, 3)), "bias": GENERATOR.normal(size=4)}
    norm = {
        "weight": GENERATOR.uniform(0.5, 2, 4),
        "bias": GENERATOR.normal(size=4),
        "running_mean": GENERATOR.normal(size=4),
        "running_var": GENERATOR.uniform(0.5, 2, 4),
    }
    factor = norm["weight"] / np.sqrt(norm["running_var"] + epsilon)
    weight = conv["weight"] * factor[:, None, None, None]
    return weight, norm["bias"] + (conv["bias"] - norm["running_mean"]) * factor, conv, norm


def test_a_folded_normalisation_is_looked_through() -> None:
    weight, bias, conv, norm = folded()
    assert blame(weight.astype(np.float32), bias.astype(np.float32), conv, norm, 1e-5) is None


def test_a_weight_that_no_normalisation_can_have_made_is_the_convolution_s() -> None:
    weight, bias, conv, norm = folded()
    weight[1, 1, 1, 1] += 0.1
    found = blame(weight, bias, conv, norm, 1e-5)
    assert found is not None
    assert found.convolution


def test_the_epsilon_that_was_folded_in_is_read_off_the_weights() -> None:
    weight, bias, conv, norm = folded(epsilon=1e-3)
    found = blame(weight.astype(np.float32), bias, conv, norm, 1e-5)
    assert found is not None
    assert not found.convolution
    assert "epsilon is 0.001, the module's 1e-05" in found.sentence


# --- values -------------------------------------------------------------------------------------------------------


def test_a_value_in_another_layout_is_the_same_value() -> None:
    value = GENERATOR.normal(size=(2, 4, 5, 3)).astype(np.float32)
    found = hold(value.transpose(0, 3, 1, 2), value, 1e-6)
    assert (found.difference, found.axes) == (0.0, (0, 3, 1, 2))


def test_another_shape_or_a_nan_on_one_side_is_as_far_off_as_can_be() -> None:
    value = np.ones((2, 3), dtype=np.float32)
    assert hold(np.ones((2, 4), dtype=np.float32), value, 1e-6).margin == FAR
    assert hold(np.full((2, 3), np.nan, dtype=np.float32), value, 1e-6).margin == FAR
    assert hold(np.full((2, 3), np.nan), np.full((2, 3), np.nan), 1e-6).margin == 0


def test_whole_numbers_agree_or_they_do_not() -> None:
    value = np.array([1, 2, 3])
    assert hold(value + 1, value, allowance(value, 0.0)).margin > 1
    assert hold(value, value, allowance(value, 0.0)).margin == 0


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_noise_is_the_largest_change_where_both_are_finite(shape: tuple[int, ...]) -> None:
    value = np.full(shape, 2.0, dtype=np.float32)
    assert change(value, value.astype(np.float64) + 0.5) == 0.5
    assert change(value, np.full(shape, np.inf)) == 0.0
    assert change(np.full(shape, 3), np.full(shape, 5)) == 2.0


def test_what_is_allowed_is_eight_times_the_noise_and_at_least_eight_units_of_rounding() -> None:
    value = np.array([2.0], dtype=np.float32)
    assert allowance(value, 1e-3) == pytest.approx(8e-3)
    assert allowance(value, 0.0) == pytest.approx(8 * 2.0 * 2**-24)

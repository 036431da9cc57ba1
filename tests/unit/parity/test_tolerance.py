"""Tolerances come from the source's own noise: per position, with a twin or without, and never from edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import DType, Signature, TensorSpec
from tasks.parity.tolerance import AGAIN, FLOAT64, MOVED, REVERSED, SAFETY, Noise, Probe, measure, unit_roundoff

U = 2.0**-24
Y = TensorSpec("y", DType.FLOAT32, ("batch", 2))
LABEL = TensorSpec("label", DType.INT64, ("batch",))


def probe(condition: str, answers: np.ndarray, output: TensorSpec = Y) -> Probe:
    return Probe(condition, {output.name: answers})


def noise(answers: np.ndarray, *probes: Probe, output: TensorSpec = Y, terms: int = 4) -> Noise:
    return measure(answers, probes, output, U, terms, answers.size)


def rows(count: int = 50, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32) * np.float32(scale)


def test_a_twin_allows_eight_times_the_noise_that_it_shows() -> None:
    answers = rows()
    twin = answers.astype(np.float64)
    twin[3, 0] += 1e-4
    found = noise(answers, probe(FLOAT64, twin))
    assert found.twin
    assert found.allowance.atol[0] == pytest.approx(SAFETY * 1e-4, rel=1e-3)
    assert found.level == pytest.approx(1e-4, rel=1e-3)


def test_a_quiet_position_gets_the_median_relative_to_its_own_scale() -> None:
    answers = rows(scale=1) * np.float32([1.0, 1000.0])
    twin = answers.astype(np.float64) * (1 + 1e-6)
    found = noise(answers, probe(FLOAT64, twin))
    assert found.allowance.atol[1] / found.allowance.atol[0] == pytest.approx(
        np.abs(answers[:, 1]).max() / np.abs(answers[:, 0]).max(), rel=0.01
    )


def test_no_noise_at_all_still_allows_some_units_in_the_last_place() -> None:
    answers = rows()
    found = noise(answers, probe(FLOAT64, answers.astype(np.float64)))
    np.testing.assert_allclose(found.allowance.atol, SAFETY * U * np.abs(answers).max(axis=0), rtol=1e-6)


def test_with_a_twin_moved_inputs_allow_nothing_more() -> None:
    answers = rows()
    twin = probe(FLOAT64, answers.astype(np.float64))
    moved = probe(MOVED, answers * np.float32(1 + 1e-5))
    np.testing.assert_array_equal(noise(answers, twin, moved).allowance.atol, noise(answers, twin).allowance.atol)


def test_without_a_twin_moved_inputs_show_what_is_allowed() -> None:
    answers = rows()
    moved = answers.copy()
    moved[7, 1] += np.float32(1e-3)
    found = noise(answers, probe(MOVED, moved))
    assert not found.twin
    assert found.allowance.atol[1] == pytest.approx(1e-3, rel=1e-2)


def test_without_a_twin_longer_sums_allow_more_as_the_square_root() -> None:
    answers = rows()
    few, many = noise(answers, probe(AGAIN, answers), terms=100), noise(answers, probe(AGAIN, answers), terms=10_000)
    np.testing.assert_allclose(many.allowance.atol / few.allowance.atol, 10)


def test_a_row_that_loses_half_of_its_digits_is_an_edge_and_no_noise() -> None:
    answers = rows()
    jumped = answers.astype(np.float64)
    jumped[5] += 1.0
    found = noise(answers, probe(FLOAT64, jumped))
    assert list(np.flatnonzero(found.edges)) == [5]
    assert found.allowance.atol.max() < 1e-5
    assert found.unstable == {FLOAT64: 1}


def test_a_row_that_is_finite_only_sometimes_is_an_edge() -> None:
    answers = rows()
    other = answers.copy()
    other[2, 0] = np.inf
    assert list(np.flatnonzero(noise(answers, probe(REVERSED, other)).edges)) == [2]


def test_values_that_are_never_finite_count_for_nothing() -> None:
    answers = rows()
    answers[:, 1] = np.nan
    found = noise(answers, probe(AGAIN, answers.copy()))
    assert not found.edges.any()
    assert np.isfinite(found.allowance.atol).all()


def test_labels_allow_nothing_and_edges_are_rows_whose_label_changes() -> None:
    labels = np.arange(10)
    other = labels.copy()
    other[4] = 7
    found = noise(labels, probe(MOVED, other, LABEL), output=LABEL)
    assert found.tolerance.atol == found.tolerance.rtol == 0
    assert list(np.flatnonzero(found.edges)) == [4]


def test_the_tolerance_for_the_image_is_that_of_the_loosest_position() -> None:
    answers = rows() * np.float32([1.0, 1000.0])
    found = noise(answers, probe(FLOAT64, answers.astype(np.float64)))
    assert found.tolerance.atol == found.allowance.atol[1]


def test_all_zero_answers_allow_only_what_is_flushed_to_zero() -> None:
    answers = np.zeros((5, 2), dtype=np.float32)
    assert noise(answers, probe(AGAIN, answers.copy())).allowance.atol.max() == np.finfo(np.float32).tiny


@pytest.mark.parametrize(
    ("taken", "given", "unit"),
    [
        (DType.FLOAT32, DType.FLOAT32, 2.0**-24),
        (DType.FLOAT32, DType.FLOAT64, 2.0**-24),
        (DType.FLOAT64, DType.FLOAT32, 2.0**-24),
        (DType.FLOAT64, DType.FLOAT64, 2.0**-53),
        (DType.FLOAT32, DType.FLOAT16, 2.0**-11),
        (DType.INT64, DType.FLOAT32, 2.0**-24),
        (DType.FLOAT32, DType.INT64, 2.0**-24),
    ],
)
def test_the_unit_roundoff_is_that_of_the_coarsest_arithmetic(taken: DType, given: DType, unit: float) -> None:
    output = TensorSpec("y", given, ("batch",))
    assert unit_roundoff(Signature((TensorSpec("x", taken, ("batch",)),), (output,)), output) == unit


@given(st.floats(1e-7, 1e-5), st.integers(0, 2**32 - 1))
def test_a_faithful_export_with_as_much_noise_as_the_source_passes(level: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    exact = generator.normal(size=(200, 2))
    source = exact + level * generator.normal(size=exact.shape)
    export = exact + level * generator.normal(size=exact.shape)
    found = measure(source[:64], (probe(FLOAT64, exact[:64]),), Y, U, 4, source.size)
    assert (np.abs(export - source) <= found.allowance.of(source)).all()


@given(st.floats(1e-7, 1e-5), st.floats(40, 1e6))
def test_an_export_that_is_off_by_forty_times_the_noise_never_passes(level: float, factor: float) -> None:
    generator = np.random.default_rng(1)
    exact = generator.normal(size=(64, 2))
    source = exact + level * generator.normal(size=exact.shape)
    found = measure(source, (probe(FLOAT64, exact),), Y, U, 4, source.size)
    assert (np.abs(source + factor * level - source) > found.allowance.of(source)).any()

"""The plots of the parity page, from contracts made by hand; and that what was not measured leaves no section."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Calibration, ClassChange, Divergence, FileTree, LayerDrift, MetricComparison
from tasks.parity.confrontation import Judgement
from tasks.parity.inputs import Batching
from tasks.parity.page import Evidence, render
from tasks.parity.page.classes import changes
from tasks.parity.page.layers import HEIGHT, way
from tasks.parity.page.metrics import interval
from tasks.store import LocalStore
from tests import samples


def metric(**changed: Any) -> MetricComparison:
    values: dict[str, Any] = {"name": "accuracy", "source": 0.9, "export": 0.89, "drop": 0.01, "max_drop": 0.02}
    return MetricComparison(**{**values, "rows": 100, **changed})


def layer(margin: float, name: str = "encoder.0", **changed: Any) -> LayerDrift:
    values: dict[str, Any] = {"module": name, "kind": "Linear", "operator": "Gemm", "node": f"/{name}/out"}
    return LayerDrift(**{**values, "difference": margin, "allowed": 1.0, "margin": margin, **changed})


def change(label: str, lost: int, gained: int, name: str = "accuracy") -> ClassChange:
    return ClassChange(
        metric=name, label=label, rows=50, source_right=40, export_right=40 - lost + gained, lost=lost, gained=gained
    )


# --- the page -----------------------------------------------------------------------------------------------------


def page_of(store: LocalStore, **changed: Any) -> str:
    """The page of a report, of an export that nothing is known of but what is in the report."""
    report = samples.parity_report(store, **changed)
    judged = Judgement(Batching((1,), 1), (), (), report.findings)
    evidence = Evidence(samples.spec(), samples.artifact(store), samples.export(store), judged)
    return render(report, evidence)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_what_was_not_measured_has_no_section(store: LocalStore) -> None:
    text = page_of(store, metrics=())
    sections = ("Task metrics", "changed sides", "Calibration", "leaves the source", "See it yourself", "Data Docs")
    assert [section for section in sections if section in text] == []


def test_what_was_measured_has_its_section(store: LocalStore) -> None:
    first = layer(40, "encoder.norm")
    text = page_of(
        store,
        classes=(change("three", 7, 0),),
        calibration=(Calibration(metric="accuracy", source=0.01, export=0.04, bins=15),),
        divergence=Divergence(first=first, worst=(first,), drift=(layer(0.1), first), compared=2, total=3),
        reproduction=FileTree(files=(samples.stored(store, "README.md"),)),
        docs=FileTree(files=(samples.stored(store, "index.html"),)),
        metrics=(metric(upper=0.04, rows_needed=1234),),
    )
    for said in ("at most 0.04", "about 1,234 would do", "changed sides", "Calibration", "First at encoder.norm"):
        assert said in text
    assert 'href="data_docs/index.html"' in text
    assert "slipway reproduce digits --format onnx --to folder" in text


def test_names_are_text_and_the_page_needs_nothing_else(store: LocalStore) -> None:
    evil = "<script>alert(1)</script>"
    first = layer(9, evil)
    text = page_of(
        store,
        classes=(change(evil, 7, 0, evil),),
        divergence=Divergence(first=first, worst=(first,), drift=(first,), compared=1, total=1),
        metrics=(metric(name=evil, method=evil),),
    )
    assert "<script" not in text
    assert "://" not in text


# --- metrics ------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_metric_stand_in_their_order_on_its_axis() -> None:
    found = interval(metric(drop=0.01, upper=0.015))
    assert found.right
    assert found.drop_at is not None
    assert found.upper_at is not None
    assert 0 < found.zero_at < found.drop_at < found.upper_at < found.allowed_at < 100


def test_the_bound_decides_and_without_one_nothing_is_right() -> None:
    assert interval(metric(drop=0.01, upper=0.02)).right
    assert not interval(metric(drop=0.01, upper=0.03)).right
    assert not interval(metric(drop=0.01)).right


@pytest.mark.parametrize("drop", [None, math.inf, -math.inf, math.nan])
def test_a_drop_without_a_value_is_neither_right_nor_drawn(drop: float | None) -> None:
    found = interval(metric(drop=drop))
    assert found.drop_at is None
    assert not found.right


def test_a_drop_of_nothing_where_nothing_is_allowed_has_an_axis() -> None:
    found = interval(metric(drop=0.0, upper=0.0, max_drop=0.0))
    assert found.right
    assert 0 <= found.zero_at <= 100


# --- classes ------------------------------------------------------------------------------------------------------


def test_the_classes_that_lost_most_come_first_and_those_that_did_not_change_are_counted() -> None:
    [found] = changes([change("a", 0, 0), change("b", 1, 2), change("c", 4, 0), change("d", 0, 0)])
    assert [bars.change.label for bars in found.bars] == ["c", "b"]
    assert (found.bars[0].lost_width, found.bars[1].gained_width) == (100, 50)
    assert (found.more, found.unchanged) == (0, 2)


def test_each_metric_has_its_own_classes() -> None:
    assert [each.metric for each in changes([change("a", 1, 0), change("a", 1, 0, "top5")])] == ["accuracy", "top5"]


def test_of_a_thousand_classes_the_worst_are_drawn() -> None:
    [found] = changes([change(str(number), number, 0) for number in range(1000)])
    assert len(found.bars) == 30
    assert found.bars[0].change.lost == 999
    assert found.more == 1000 - 1 - 30


# --- layers -------------------------------------------------------------------------------------------------------


def test_the_first_layer_that_leaves_the_source_is_marked() -> None:
    drift = (layer(0.01, "a"), layer(0.1, "b"), layer(40, "c"), layer(30, "d"))
    found = way(Divergence(first=drift[2], worst=drift[2:], drift=drift, compared=4, total=5))
    assert [point.first for point in found.points] == [False, False, True, False]
    assert found.first_x == found.points[2].x
    assert [point.out for point in found.points] == [False, False, True, True]
    assert found.points[0].y > found.limit_y > found.points[2].y


def test_every_point_is_on_the_plot_however_large_or_small() -> None:
    drift = (layer(0.0), layer(1e-300), layer(1e30))
    found = way(Divergence(first=drift[2], drift=drift, compared=3, total=3))
    assert all(0 <= point.y <= HEIGHT and 0 <= point.x <= 100 for point in found.points)
    assert all(0 <= y <= HEIGHT for y, _ in found.ticks)


def test_a_thousand_layers_are_drawn_as_a_few_hundred_and_none_that_matters_is_left_out() -> None:
    drift = [layer(0.01, str(number)) for number in range(1000)]
    drift[501], drift[502] = layer(5, "first"), layer(900, "worst")
    found = way(Divergence(first=drift[501], drift=tuple(drift), compared=1000, total=1000))
    assert len(found.points) <= 250
    assert [point.layer.module for point in found.points if point.first] == ["first"]


def test_without_anything_compared_there_is_nothing_to_draw() -> None:
    found = way(Divergence(first=None, compared=0, total=9, note="the export has no names in common with the source"))
    assert found.points == ()
    assert found.worst == ()

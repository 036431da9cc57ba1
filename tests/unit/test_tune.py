"""Tuning: which setting wins, and what is said of it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from serving.contract import Batching
from tasks.cli import run
from tasks.errors import BadInput
from tasks.load.objective import Held, OutOfTime
from tasks.store import LocalStore
from tasks.tune.command import Asked, Tuned, tuned
from tasks.tune.run import Measurement, Tuning, environment_of
from tasks.tune.search import Choice, batch_rows, choose, parallelism, windows
from tests import samples

DEFAULT = Batching(batch_rows=32, batch_window_ms=0.0, workers=2, threads=2)


# --- the search ---------------------------------------------------------------------------------------------------


def bears(capacity: Callable[[Batching], float]) -> Callable[[Batching, float], bool]:
    return lambda setting, rate: rate <= capacity(setting)


def test_the_best_setting_of_all_axes_is_found() -> None:
    def capacity(setting: Batching) -> float:
        best = (setting.threads, setting.workers, setting.batch_rows, setting.batch_window_ms) == (1, 4, 8, 1.0)
        return (
            100.0
            * (2 if setting.threads == 1 and setting.workers == 4 else 1)
            * (2 if setting.batch_rows == 8 else 1)
            * (2 if best else 1)
        )

    choice = choose(bears(capacity), DEFAULT, max_batch=32, cpus=4, p99_ms=50, start=10)
    assert choice is not None
    assert choice.setting == Batching(batch_rows=8, batch_window_ms=1.0, workers=4, threads=1)
    assert 800 / 1.09 < choice.rate <= 800
    assert choice.complete


def test_what_is_hardly_better_does_not_replace_the_default() -> None:
    choice = choose(
        bears(lambda setting: 100 if setting == DEFAULT else 101), DEFAULT, max_batch=32, cpus=2, p99_ms=50, start=99
    )
    assert choice is not None
    assert choice.setting == DEFAULT


def test_a_choice_that_ran_out_of_time_says_so() -> None:
    probes = itertools.count()

    def probe(setting: Batching, rate: float) -> bool:
        if next(probes) == 12:
            raise OutOfTime
        return rate <= 100

    choice = choose(probe, DEFAULT, max_batch=32, cpus=2, p99_ms=50, start=10)
    assert choice is not None
    assert not choice.complete


def test_where_the_default_keeps_nothing_there_is_no_choice() -> None:
    assert choose(lambda setting, rate: False, DEFAULT, max_batch=32, cpus=2, p99_ms=50, start=10) is None


def test_every_axis_stays_within_what_was_proven() -> None:
    assert [changes["batch_rows"] for changes in batch_rows(32)] == [32, 8, 2, 1]
    assert [changes["batch_rows"] for changes in batch_rows(1)] == [1]
    assert all(changes["workers"] >= 2 for changes in parallelism(1))
    assert max(changes["batch_window_ms"] for changes in windows(40)) <= 10


def test_a_setting_reaches_the_container_as_its_environment() -> None:
    assert environment_of(Batching(batch_rows=8, batch_window_ms=1.5, workers=2)) == {
        "SERVING_BATCH_ROWS": "8",
        "SERVING_BATCH_WINDOW_MS": "1.5",
        "SERVING_WORKERS": "2",
    }


# --- what is said ------------------------------------------------------------------------------------------------


def measured(rate: float, held: Held, purpose: str, p99_ms: float | None = 3.0) -> Measurement:
    return Measurement(DEFAULT, rate, 900, 0, 0, 1.0, p99_ms, held, 0.0, 0.1, purpose)


KEPT = Tuning(
    p99_ms=50,
    rows=1,
    cpus=2,
    choice=Choice(DEFAULT, 800.0, 1.0, complete=True),
    confirmed=True,
    out_of_time=False,
    measurements=(
        measured(800, Held.KEPT, "search"),
        measured(900, Held.BROKEN, "search", None),
        measured(400, Held.KEPT, "curve"),
        measured(800, Held.KEPT, "curve"),
    ),
    seconds=60,
)


@pytest.mark.parametrize(
    ("tuning", "verdict", "exit_code"),
    [
        (KEPT, "passed", 0),
        (replace(KEPT, confirmed=False), "inconclusive", 1),
        (replace(KEPT, choice=None, confirmed=False), "failed", 1),
        (replace(KEPT, choice=None, confirmed=False, out_of_time=True), "inconclusive", 1),
    ],
)
def test_only_a_choice_that_held_each_time_has_passed(tuning: Tuning, verdict: str, exit_code: int) -> None:
    said = Tuned(Asked("slipway/m:onnx-1", 60), tuning)
    document = json.loads(json.dumps(said.document()))
    assert (document["verdict"], said.exit_code) == (verdict, exit_code)
    assert [item["rate"] for item in document["curve"]] == [400, 800]


def shown(said: Tuned) -> str:
    console = Console(width=120, file=io.StringIO(), markup=False)
    console.print(*said.lines(), sep="\n")
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_choice_is_said_as_it_goes_into_model_yaml(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    image = samples.tuned_image(store, samples.package(store))
    said = shown(Tuned(Asked("slipway/m:onnx-1", 60), KEPT, image))
    assert "serving: {batch_rows: 32, batch_window_ms: 0, workers: 2, threads: 2}" in said
    assert "bears 800 requests/s of 1 row(s) within 50 ms on 2 CPUs (as before)" in said
    assert f"written into {image.reference}" in said


def test_what_is_not_sure_is_said() -> None:
    busy = tuple(replace(item, taken_by_others=0.5) for item in KEPT.measurements)
    said = shown(
        Tuned(Asked("slipway/m:onnx-1", 60), replace(KEPT, confirmed=False, out_of_time=True, measurements=busy))
    )
    assert "inconclusive" in said
    assert "the budget was over before all settings were tried" in said
    assert "other programs had more than 25% of the CPUs" in said
    assert "model.yaml" not in said


@pytest.mark.parametrize("budget", ["soon", "2", "0m", "1.5m", "m", "²m"])
def test_a_budget_that_is_none_is_bad_input(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "slipway/m:onnx-1", "--budget", budget]) == 2
    assert "such as 2m" in capsys.readouterr().err


def test_more_cpus_than_there_are_is_bad_input() -> None:
    with pytest.raises(BadInput, match="--cpus 100000: this machine has"):
        tuned(Asked("slipway/m:onnx-1", 60, cpus=100_000), lambda line: None, lambda: None)

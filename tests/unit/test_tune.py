"""Tuning: what counts as kept, which setting wins, and that a load does not wait for answers."""

from __future__ import annotations

import io
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serving.contract import Batching, DimRange, DType, ServingContract, Signature, TensorSpec, Tolerance
from serving.package import Refusal
from tasks.cli import run
from tasks.errors import BadInput, PlatformError
from tasks.image import ContainerSpec, ContainerState, ImageInfo
from tasks.load.objective import Held, OutOfTime
from tasks.smoke.golden import GoldenSamples
from tasks.store import LocalStore
from tasks.tune.bench import Bench, Measurement, Subject, environment_of
from tasks.tune.command import Asked, Tuned, tuned
from tasks.tune.run import Tuning, request_rows
from tasks.tune.search import (
    REPEATS,
    Borne,
    Choice,
    batch_rows,
    borne,
    choose,
    confirm,
    parallelism,
    windows,
)
from tests import samples
from tests.unit.load.stalling import Stalling, stalling

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


# --- what holds again ---------------------------------------------------------------------------------------------

OTHER = replace(DEFAULT, workers=3)


def test_a_rate_above_one_that_was_not_kept_does_not_count_as_kept() -> None:
    seen = [(1517.0, Held.KEPT), (1640.0, Held.BROKEN), (1517.0, Held.KEPT), (896.0, Held.UNCLEAR), (806.0, Held.KEPT)]
    assert borne(seen) == Borne(kept=806, not_kept=896)


def test_of_a_rate_that_was_measured_again_the_last_measurement_counts() -> None:
    assert borne([(100, Held.BROKEN), (100, Held.KEPT), (200, Held.BROKEN)]) == Borne(kept=100, not_kept=200)
    assert borne([(100, Held.KEPT), (100, Held.BROKEN)]) == Borne(kept=None, not_kept=100)
    assert borne([]) == Borne(kept=None, not_kept=None)


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.sampled_from(list(Held)))))
def test_no_setting_is_shown_to_keep_more_than_it_did_not_keep(seen: list[tuple[float, Held]]) -> None:
    shown = borne(seen)
    assert shown.kept is None or shown.not_kept is None or shown.kept < shown.not_kept


def test_a_choice_that_does_not_hold_again_is_tried_at_lower_rates_until_it_does_each_time() -> None:
    asked: list[float] = []

    def again(setting: Batching, rate: float) -> bool:
        asked.append(rate)
        return rate <= 850

    found = confirm(again, Choice(DEFAULT, 1000.0, 1.0, complete=True), DEFAULT)
    assert (found.held, found.out_of_time, found.choice.is_default) == (True, False, True)
    assert found.choice.rate == pytest.approx(810)
    assert asked == pytest.approx([1000, 900, *[810] * REPEATS])


def test_another_setting_that_falls_back_to_what_the_images_own_bears_gives_way_to_it() -> None:
    choice = Choice(OTHER, 1200.0, 1.2, complete=True)
    found = confirm(lambda setting, rate: rate <= 1000, choice, DEFAULT)
    assert (found.choice.setting, found.choice.gain, found.held) == (DEFAULT, 1.0, True)
    found = confirm(lambda setting, rate: rate <= (1000 if setting == OTHER else 500), choice, DEFAULT)
    assert (found.choice.setting, found.choice.gain, found.held) == (OTHER, 1.2, True)


def test_another_setting_that_holds_well_beyond_the_images_own_is_not_compared_again() -> None:
    def again(setting: Batching, rate: float) -> bool:
        assert setting == OTHER
        return True

    assert confirm(again, Choice(OTHER, 1200.0, 1.2, complete=True), DEFAULT).choice.setting == OTHER


def test_a_choice_that_holds_nowhere_or_ran_out_of_time_is_not_confirmed() -> None:
    def out_of_time(setting: Batching, rate: float) -> bool:
        raise OutOfTime

    choice = Choice(DEFAULT, 100.0, 1.0, complete=True)
    nowhere, late = confirm(lambda setting, rate: False, choice, DEFAULT), confirm(out_of_time, choice, DEFAULT)
    assert (nowhere.held, nowhere.out_of_time) == (False, False)
    assert (late.held, late.out_of_time) == (False, True)


@pytest.mark.parametrize(
    ("dynamic", "rows", "sentence"),
    [
        ({"batch": DimRange(1, 256)}, 1000, "--rows 1000: the model takes from 1 to 256 rows in a request"),
        ({"batch": DimRange(4, 256)}, 3, "--rows 3: the model takes from 4 to 256 rows in a request"),
        ({}, 2, "--rows 2: the model has no batch dimension, so each request is one"),
    ],
)
def test_rows_that_the_model_does_not_take_are_bad_input(
    dynamic: dict[str, DimRange], rows: int, sentence: str
) -> None:
    with pytest.raises(BadInput, match=f"^{sentence}$"):
        request_rows(signature(dynamic), rows)


def test_unless_told_a_request_has_the_fewest_rows_that_the_model_takes() -> None:
    assert request_rows(signature({"batch": DimRange(4, 256)}), None) == 4
    assert request_rows(signature({}), None) == 1


def signature(dynamic: dict[str, DimRange]) -> Signature:
    shape = ("batch" if dynamic else 1, 2)
    return Signature((TensorSpec("x", DType.FLOAT32, shape),), (TensorSpec("y", DType.FLOAT32, shape),), dynamic)


# --- what is said ------------------------------------------------------------------------------------------------


def measured(rate: float, held: Held, purpose: str, p99_ms: float | None = 3.0) -> Measurement:
    return Measurement(DEFAULT, rate, 900, 0, 0, 1.0, p99_ms, held, 0.0, 0.1, purpose)


ASKED = Asked("slipway/m:onnx-1", 60)
KEPT = Tuning(
    p99_ms=50,
    rows=1,
    cpus=2,
    choice=Choice(DEFAULT, 800.0, 1.25, complete=True),
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
    said = Tuned(ASKED, tuning)
    document = json.loads(json.dumps(said.document()))
    assert (document["verdict"], said.exit_code) == (verdict, exit_code)
    assert [item["rate"] for item in document["curve"]] == [400, 800]


def shown(said: Tuned) -> str:
    console = Console(width=200, file=io.StringIO(), markup=False)
    console.print(*said.lines(), sep="\n")
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_choice_is_said_as_it_goes_into_model_yaml(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    image = samples.tuned_image(store, samples.package(store))
    said = shown(Tuned(ASKED, KEPT, image))
    assert "serving: {batch_rows: 32, batch_window_ms: 0, workers: 2, threads: 2}" in said
    assert "in the search it bore 1.25 × what the image's own setting did" in said
    assert "bears 800 requests/s of 1 row(s) within 50 ms on 2 CPUs: it held each of 3 times" in said
    assert f"written into {image.reference}" in said


def test_where_the_images_own_setting_is_best_no_image_is_written_and_that_is_said() -> None:
    said = shown(Tuned(ASKED, replace(KEPT, choice=Choice(DEFAULT, 800.0, 1.0, complete=True))))
    assert "the image's own setting; no other that was tried was shown to bear 8% more" in said
    assert "no image is written: slipway/m:onnx-1 stands as it is" in said
    assert "model.yaml" not in said


def test_the_table_and_the_words_agree_on_what_did_not_hold_again() -> None:
    again = (
        [(1517, Held.KEPT), (1640, Held.BROKEN)],
        [(1517, Held.BROKEN), (896, Held.UNCLEAR), *[(806, Held.KEPT)] * 3],
    )
    seen = [
        measured(rate, held, kind)
        for kind, all_ in zip(("search", "repeat"), again, strict=True)
        for rate, held in all_
    ]
    found = replace(KEPT, choice=Choice(DEFAULT, 806.0, 1.0, complete=True), measurements=tuple(seen))
    said = shown(Tuned(ASKED, found))
    [row] = [line.split() for line in said.splitlines() if line.split()[:1] == ["2"]]
    assert (row[4], row[-1]) == ("806/s", "896/s")
    assert "measured again on fresh containers, 1,517/s and 896/s did not hold" in said
    assert "bears 806 requests/s" in said


@pytest.mark.parametrize(
    ("tuning", "why"),
    [
        (replace(KEPT, confirmed=False), "it did not hold each time that it was measured again"),
        (replace(KEPT, confirmed=False, out_of_time=True), "the budget was over before it had held 3 times"),
        (
            replace(KEPT, confirmed=False, measurements=(measured(600, Held.BROKEN, "curve"),)),
            "600/s of the curve, which is no more, did not hold",
        ),
    ],
)
def test_why_it_is_inconclusive_is_said(tuning: Tuning, why: str) -> None:
    said = shown(Tuned(ASKED, tuning))
    assert f"inconclusive whether it bears 800 requests/s of 1 row(s) within 50 ms on 2 CPUs: {why}" in said


def test_what_is_not_sure_is_said() -> None:
    busy = tuple(replace(item, taken_by_others=0.5) for item in KEPT.measurements)
    hasty = Choice(DEFAULT, 800.0, 1.0, complete=False)
    said = shown(Tuned(ASKED, replace(KEPT, choice=hasty, confirmed=False, out_of_time=True, measurements=busy)))
    assert "inconclusive" in said
    assert "the budget was over before all settings were tried" in said
    assert "other programs had more than 25% of the CPUs" in said
    assert "model.yaml" not in said


def test_where_no_rate_was_kept_it_says_on_how_much_and_whether_others_were_at_work() -> None:
    busy = tuple(replace(item, taken_by_others=0.5) for item in KEPT.measurements)
    found = replace(KEPT, choice=None, confirmed=False, measurements=busy)
    said = shown(Tuned(replace(ASKED, memory_mb=64), found))
    assert "on 2 CPUs and 64 MiB a request takes too long even when few come: give the container more" in said
    assert "other programs had more than 25% of the CPUs" in said


@pytest.mark.parametrize("budget", ["soon", "2", "0m", "1.5m", "m", "²m"])
def test_a_budget_that_is_none_is_bad_input(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "slipway/m:onnx-1", "--budget", budget]) == 2
    assert "such as 2m" in capsys.readouterr().err


def test_more_cpus_than_there_are_is_bad_input() -> None:
    with pytest.raises(BadInput, match="--cpus 100000: this machine has"):
        tuned(Asked("slipway/m:onnx-1", 60, cpus=100_000), lambda line: None, lambda: None)


# --- a container under load ---------------------------------------------------------------------------------------


class Serving:
    """An engine whose one container is a server of this test's, or one that ended."""

    def __init__(self, server: Stalling, ended: ContainerState | None = None) -> None:
        self._server, self._ended = server, ended

    def start(self, spec: ContainerSpec) -> str:
        return spec.name

    def host_port(self, container: str, port: int) -> int:
        return self._server.address.port

    def state(self, container: str) -> ContainerState:
        return self._ended or ContainerState(container, True, None, False, "", None, None)

    def logs(self, container: str, tail: int | None = None) -> str:
        return "the last line"

    def remove(self, container: str) -> None:
        pass


def bench(server: Stalling, budget_s: float, ended: ContainerState | None = None) -> Bench:
    raw = signature({"batch": DimRange(1, 8)})
    values = np.zeros((8, 2), np.float32)
    contract = ServingContract(
        *("m", "1", "onnx", "onnx", "model", (), raw, ()), {"y": Tolerance(0, 0)}, "golden.npz", 8, {}
    )
    golden = GoldenSamples({"x": values}, {"y": values}, contract.tolerances, raw)
    image = ImageInfo("sha256:" + 64 * "0", ("slipway/m:1",), 1, (), {})
    subject = Subject(image, contract, golden, 1.0, 64 << 20)
    until = time.monotonic() + budget_s
    return Bench(subject, Serving(server, ended), 1, 50, until, lambda item: None)  # type: ignore[arg-type]


def test_a_server_that_does_not_answer_is_waited_for_only_as_long_as_there_is_budget() -> None:
    with stalling() as server, bench(server, budget_s=0.2) as made:
        server.gate.clear()
        with pytest.raises(OutOfTime):
            made.alone(DEFAULT)


def test_a_request_that_takes_longer_than_the_budget_ends_it() -> None:
    with stalling() as server, bench(server, budget_s=0.3) as made:
        made._running = (DEFAULT, "ready")
        server.gate.clear()
        with pytest.raises(OutOfTime):
            made.alone(DEFAULT)


@pytest.mark.parametrize(("exit_code", "oom_killed"), [(137, True), (Refusal.MEMORY, False)])
def test_too_little_memory_is_for_whoever_asked_for_it(exit_code: int, oom_killed: bool) -> None:
    ended = ContainerState("c", False, exit_code, oom_killed, "", None, None)
    said = pytest.raises(BadInput, match="--memory-mb 64: the server needs more: it did not become ready")
    with stalling() as server, bench(server, 60, ended) as made, said:
        made.alone(DEFAULT)


def test_a_server_that_ends_otherwise_is_the_platforms_failure_with_its_last_line() -> None:
    ended = ContainerState("c", False, 1, False, "", None, None)
    said = pytest.raises(PlatformError, match="the server did not become ready; its last line is: the last line")
    with stalling() as server, bench(server, 60, ended) as made, said:
        made.alone(DEFAULT)

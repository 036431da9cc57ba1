"""Tuning: what counts as kept, which setting wins, and that a load does not wait for answers."""

from __future__ import annotations

import io
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serving.contract import Batching
from tasks.cli import run
from tasks.errors import BadInput
from tasks.smoke.client import Address, get
from tasks.store import LocalStore
from tasks.tune.command import Asked, Tuned, tuned
from tasks.tune.load import Offered, arrivals, offer
from tasks.tune.run import Measurement, Tuning, environment_of
from tasks.tune.search import (
    Choice,
    Held,
    OutOfTime,
    batch_rows,
    choose,
    held,
    highest,
    parallelism,
    requests_needed,
    windows,
)
from tests import samples

DEFAULT = Batching(batch_rows=32, batch_window_ms=0.0, workers=2, threads=2)


# --- what is shown ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "late", "what"),
    [
        (0, 0, Held.UNCLEAR),
        (298, 0, Held.UNCLEAR),
        (299, 0, Held.KEPT),
        (299, 1, Held.UNCLEAR),
        (900, 3, Held.KEPT),
        (900, 8, Held.UNCLEAR),
        (900, 20, Held.BROKEN),
        (10, 10, Held.BROKEN),
    ],
)
def test_the_objective_is_kept_only_where_enough_requests_show_it(asked: int, late: int, what: Held) -> None:
    assert held(asked, late) is what


def test_as_many_requests_are_needed_as_the_exact_bound_says() -> None:
    assert held(requests_needed(), 0) is Held.KEPT
    assert held(requests_needed() - 1, 0) is Held.UNCLEAR


def test_a_refusal_and_a_missing_answer_are_late() -> None:
    offered = Offered(10, (1.0, 2.0, 30.0), refused=2, unanswered=1, late_send_ms=0)
    assert (offered.asked, offered.late(10.0)) == (6, 4)


def test_a_percentile_that_was_never_answered_is_none() -> None:
    offered = Offered(10, (1.0, 2.0, 3.0), refused=1, unanswered=0, late_send_ms=0)
    assert (offered.percentile(0.5), offered.percentile(0.99)) == (2.0, None)


# --- the search ---------------------------------------------------------------------------------------------------


@given(st.floats(1.2, 50_000), st.floats(1, 5_000))
def test_the_highest_rate_is_found_from_any_start(capacity: float, start: float) -> None:
    found = highest(lambda rate: rate <= capacity, start)
    assert found is not None
    assert found <= capacity < found * 1.16


def test_where_no_rate_holds_there_is_none() -> None:
    assert highest(lambda rate: False, 100) is None


def test_when_time_runs_out_the_highest_so_far_counts() -> None:
    probes = itertools.count()

    def probe(rate: float) -> bool:
        if next(probes) == 2:
            raise OutOfTime
        return True

    assert highest(probe, 100) == 200


def test_when_time_runs_out_before_anything_held_there_is_nothing_to_say() -> None:
    def probe(rate: float) -> bool:
        raise OutOfTime

    with pytest.raises(OutOfTime):
        highest(probe, 100)


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


# --- the load -----------------------------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process() -> None:
    times = list(arrivals(1000, 20, seed=1))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1 / 1000, rel=0.05)
    assert variance == pytest.approx(mean**2, rel=0.1)  # the exponential's


class Stalling:
    """An HTTP server that answers each connection in its own thread, and nothing while its gate is shut."""

    def __init__(self, status: int = 200) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        self.answer = f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok".encode()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # whoever asked has gone
            while connection.recv(1 << 16):
                self.asked += 1
                self.gate.wait(30)
                connection.sendall(self.answer)


@contextmanager
def stalling(status: int = 200) -> Iterator[Stalling]:
    server = Stalling(status)
    try:
        yield server
    finally:
        server.gate.set()
        server.listener.close()


def test_requests_arrive_while_the_server_stalls() -> None:
    expected = len(list(arrivals(200, 0.3, seed=1)))

    def open_when_all_are_there() -> None:
        while server.asked < expected:
            time.sleep(0.001)
        server.gate.set()

    with stalling() as server:
        server.gate.clear()
        threading.Thread(target=open_when_all_are_there, daemon=True).start()
        offered = offer(server.address, get("/"), 200, 0.3, limit_ms=60_000, patience_s=30, seed=1)
        assert server.asked == offered.asked == len(offered.times_ms) == expected > 20


def test_refusals_are_counted_as_what_they_are() -> None:
    with stalling(503) as server:
        offered = offer(server.address, get("/"), 100, 0.1, limit_ms=10_000, patience_s=10, seed=1)
        assert offered.asked == offered.refused > 0


def test_who_is_never_answered_is_counted() -> None:
    with stalling() as server:
        server.gate.clear()
        offered = offer(server.address, get("/"), 50, 0.2, limit_ms=10, patience_s=0.2, seed=1)
        assert offered.unanswered == offered.asked > 0


def test_a_hopeless_load_is_given_up() -> None:
    with stalling(503) as server:
        offered = offer(server.address, get("/"), 2000, 10, limit_ms=10, patience_s=1, seed=1)
        assert offered.given_up

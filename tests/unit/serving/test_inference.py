"""Requests through the scheduler to a model: who waits for whom, who is refused, and whose fault stays whose."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.batching import Limits
from serving.contract import DimRange, DType, PreprocessStep, ServingContract, Signature, TensorSpec
from serving.golden import Golden
from serving.inference import Answer, DeadlineExceeded, Inference, Overloaded
from serving.package import Served, WrongAnswer
from serving.preprocess import raw_signature
from serving.runners import RunnerError

SIGNATURE = Signature(
    inputs=(TensorSpec("x", DType.FLOAT32, ("batch", "length")),),
    outputs=(TensorSpec("y", DType.FLOAT32, ("batch",)),),
    dynamic={"batch": DimRange(1, 1000), "length": DimRange(1, 100)},
)
LIMITS = Limits(max_rows=8, queue_rows=100, workers=2)


@dataclass
class Gated:
    """A model that sums rows, and stops at a row that begins with a negative number until that one's gate opens.

    NaN is what it cannot work with: it fails, and with it the batch. `batches` are the first values of each batch.
    """

    gates: dict[float, threading.Event] = field(default_factory=dict)
    reached: dict[float, threading.Event] = field(default_factory=dict)
    batches: list[list[float]] = field(default_factory=list)

    def gate(self, value: float) -> NDArray[Any]:
        self.gates[value], self.reached[value] = threading.Event(), threading.Event()
        return rows(value)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        x = inputs["x"]
        first = [float(value) for value in x[:, 0]]
        self.batches.append(first)
        for value in first:
            if value in self.gates:
                self.reached[value].set()
                self.gates[value].wait(30)
        if np.isnan(x).any():
            raise RunnerError("NaN")
        return {"y": x.sum(1)}

    def close(self) -> None:
        pass


def rows(*first: float, length: int = 2) -> NDArray[Any]:
    x = np.zeros((len(first), length), np.float32)
    x[:, 0] = first
    return x


def served(runner: Any, **changes: Any) -> Served:
    contract = ServingContract(
        "m", "1", "onnx", "onnx", "model", (), SIGNATURE, (), {}, "golden.npz", 8, {}
    )  # fmt: skip
    contract = replace(contract, **changes)
    return Served(contract, contract.signature, Golden({}, {}), runner)


class Clients:
    """Asks on one event loop."""

    def __init__(self, model: Served, limits: Limits = LIMITS) -> None:
        self.pool = ThreadPoolExecutor(limits.workers)
        self.inference = Inference(model, self.pool, limits)
        self.answered: list[str] = []

    def ask(self, name: str, x: NDArray[Any], deadline: float | None = None) -> asyncio.Task[Answer]:
        async def asking() -> Answer:
            answer = await self.inference.answer({"x": x}, deadline)
            self.answered.append(name)
            return answer

        return asyncio.get_running_loop().create_task(asking())


@pytest.fixture
def gated() -> Iterator[Gated]:
    model = Gated()
    yield model
    for gate in model.gates.values():
        gate.set()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def until(happened: threading.Event) -> None:
    while not happened.is_set():
        await asyncio.sleep(0.001)


def test_requests_that_come_together_are_answered_in_one_batch_each_with_its_own(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        answers = await asyncio.gather(
            clients.ask("a", rows(1)), clients.ask("b", rows(2, 3)), clients.ask("c", rows(4))
        )
        assert [answer.outputs["y"].tolist() for answer in answers] == [[1], [2, 3], [4]]
        assert gated.batches == [[1, 2, 3, 4]]
        assert {answer.timings.batch_rows for answer in answers} == {4}

    run(test)


def test_requests_of_other_lengths_are_never_padded(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        answers = await asyncio.gather(
            clients.ask("a", rows(1)), clients.ask("b", rows(2, length=3)), clients.ask("c", rows(3))
        )
        assert [answer.outputs["y"].tolist() for answer in answers] == [[1], [2], [3]]
        assert sorted(gated.batches) == [[1, 3], [2]]

    run(test)


def test_while_one_worker_is_slow_fast_requests_are_answered_before_it_ends(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        slow = clients.ask("slow", gated.gate(-1))
        await until(gated.reached[-1])
        for value in range(20):
            assert (await clients.ask("fast", rows(value))).outputs["y"].tolist() == [value]
        assert not slow.done()
        gated.gates[-1].set()
        await slow
        assert clients.answered == ["fast"] * 20 + ["slow"]

    run(test)


def test_a_request_of_thousands_of_rows_lets_a_small_one_through(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated), replace(LIMITS, workers=1, queue_rows=1000))
        first = clients.ask("first", gated.gate(-1))
        await until(gated.reached[-1])
        large = clients.ask("large", rows(*range(1, 501)))
        small = clients.ask("small", rows(0))
        await asyncio.sleep(0)
        gated.gates[-1].set()
        answers = await asyncio.gather(first, large, small)
        assert clients.answered == ["first", "small", "large"]
        assert answers[1].outputs["y"].tolist() == list(range(1, 501))
        assert max(map(len, gated.batches)) <= 8

    run(test)


def test_slow_requests_of_a_known_kind_leave_a_worker_free(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        for value in range(3):
            await clients.ask("usual", rows(value))
        giant = [gated.gate(-1 - index) for index in range(2)]
        slow = [clients.ask("slow", np.repeat(x, 40, axis=1)) for x in giant]
        for index in range(2):
            gated.gates[-1 - index].clear()
        await until(gated.reached[-1])
        assert (await clients.ask("fast", rows(7))).outputs["y"].tolist() == [7]
        assert not gated.reached[-2].is_set()
        for gate in gated.gates.values():
            gate.set()
        await asyncio.gather(*slow)

    run(test)


def test_one_request_that_the_model_cannot_work_with_fails_alone(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        tasks = [clients.ask(str(value), rows(value)) for value in (1, 2, float("nan"), 4, 5)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[2], RunnerError)
        good = [answer.outputs["y"].tolist() for answer in answers if isinstance(answer, Answer)]
        assert good == [[1], [2], [4], [5]]
        assert len(gated.batches[0]) == 5

    run(test)


def test_a_part_that_fails_fails_its_whole_request_once(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated))
        with pytest.raises(RunnerError):
            await clients.ask("large", rows(*range(30), float("nan"), *range(30)))
        assert clients.inference.waiting_rows == 0
        assert (await clients.ask("next", rows(1))).outputs["y"].tolist() == [1]

    run(test)


def test_outputs_that_cannot_be_told_apart_never_reach_a_neighbour() -> None:
    class Pooling(Gated):
        def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {"y": inputs["x"].sum(1)[:1]}

    async def test() -> None:
        clients = Clients(served(Pooling()))
        answers = await asyncio.gather(clients.ask("a", rows(1)), clients.ask("b", rows(2, 3)), return_exceptions=True)
        assert isinstance(answers[0], Answer)
        assert answers[0].outputs["y"].tolist() == [1]
        assert isinstance(answers[1], WrongAnswer)

    run(test)


def test_without_a_batch_dimension_every_request_is_run_by_itself(gated: Gated) -> None:
    fixed = Signature(
        inputs=(TensorSpec("x", DType.FLOAT32, (1, 2)),), outputs=(TensorSpec("y", DType.FLOAT32, (1,)),), dynamic={}
    )

    async def test() -> None:
        clients = Clients(served(gated, signature=fixed), replace(LIMITS, max_rows=1))
        answers = await asyncio.gather(*(clients.ask(str(value), rows(value)) for value in range(5)))
        assert [answer.outputs["y"].tolist() for answer in answers] == [[0], [1], [2], [3], [4]]
        assert {len(batch) for batch in gated.batches} == {1}

    run(test)


def test_a_full_queue_refuses_and_says_when_there_will_be_room(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated), Limits(max_rows=8, queue_rows=16, workers=1))
        await clients.ask("measured", rows(1))
        slow = clients.ask("slow", np.repeat(gated.gate(-1), 40, axis=1))
        await until(gated.reached[-1])
        waiting = [clients.ask(str(index), rows(*range(8))) for index in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="16 rows are waiting, and no more than 16 may") as caught:
            await clients.ask("late", rows(1))
        assert 0 < caught.value.retry_after_s < 60
        gated.gates[-1].set()
        await asyncio.gather(slow, *waiting)
        await clients.ask("later", rows(1))

    run(test)


def test_a_request_whose_deadline_comes_while_it_waits_is_told_then_and_never_run(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated), replace(LIMITS, workers=1))
        slow = clients.ask("slow", gated.gate(-1))
        await until(gated.reached[-1])
        with pytest.raises(DeadlineExceeded):
            await clients.ask("hasty", rows(5), time.monotonic() + 0.01)
        assert not slow.done()
        gated.gates[-1].set()
        await slow
        await clients.ask("next", rows(1))
        assert [5] not in gated.batches

    run(test)


def test_a_deadline_that_is_over_costs_nothing(gated: Gated) -> None:
    async def test() -> None:
        with pytest.raises(DeadlineExceeded):
            await Clients(served(gated)).ask("late", rows(1), time.monotonic())
        assert gated.batches == []

    run(test)


def test_a_client_that_goes_away_takes_its_request_out_of_the_line(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated), replace(LIMITS, workers=1))
        slow = clients.ask("slow", gated.gate(-1))
        await until(gated.reached[-1])
        gone = clients.ask("gone", rows(5))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait((gone,))
        assert clients.inference.waiting_rows == 0
        gated.gates[-1].set()
        await slow
        assert [5] not in gated.batches

    run(test)


def test_preprocessing_of_one_request_holds_up_no_other(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    prepare = Served.prepare

    def slow_for_nines(self: Served, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if inputs["x"][0, 0] == 9:
            at_work.set()
            go_on.wait(30)
        return prepare(self, inputs)

    async def test() -> None:
        monkeypatch.setattr(Served, "prepare", slow_for_nines)
        clients = Clients(served(gated, preprocess=(PreprocessStep("scale", "x", by=2.0),)))
        slow = clients.ask("slow", rows(9))
        await until(at_work)
        assert (await clients.ask("fast", rows(1))).outputs["y"].tolist() == [2]
        assert not slow.done()
        go_on.set()
        assert (await slow).outputs["y"].tolist() == [18]

    run(test)


def test_images_are_never_decoded_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small one is quick, and says nothing about how long the next takes."""
    signature = replace(SIGNATURE, inputs=(TensorSpec("x", DType.UINT8, ("batch", 2, 2, 3)),))
    steps = (PreprocessStep("decode_image", "x"),)

    class Brightness:
        def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {"y": inputs["x"].reshape(len(inputs["x"]), -1).sum(axis=1).astype(np.float32)}

        def close(self) -> None: ...

    content = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), 7, np.uint8)).save(content, "PNG")
    images = np.array([content.getvalue()], dtype=object)
    model = served(Brightness(), signature=signature, preprocess=steps)
    threads: set[threading.Thread] = set()
    prepare = Served.prepare

    def noted(self: Served, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        threads.add(threading.current_thread())
        return prepare(self, inputs)

    async def test() -> None:
        monkeypatch.setattr(Served, "prepare", noted)
        clients = Clients(replace(model, raw=raw_signature(signature, steps)))
        for _ in range(20):
            assert (await clients.ask("one", images)).outputs["y"].tolist() == [12 * 7]
        assert threading.current_thread() not in threads

    run(test)


def test_at_the_end_waiting_requests_are_refused_and_running_ones_answered(gated: Gated) -> None:
    async def test() -> None:
        clients = Clients(served(gated), replace(LIMITS, workers=1))
        slow = clients.ask("slow", gated.gate(-1))
        await until(gated.reached[-1])
        waiting = clients.ask("waiting", rows(1))
        await asyncio.sleep(0)
        assert clients.inference.close() == 1
        for late in (waiting, clients.ask("late", rows(1))):
            with pytest.raises(Overloaded, match="shutting down"):
                await late
        gated.gates[-1].set()
        assert (await slow).outputs["y"].tolist() == [-1]

    run(test)


@dataclass
class Seen(Gated):
    """Notes in which threads it is run, and sleeps for a while each time."""

    sleeps_s: float = 0.0
    threads: set[int] = field(default_factory=set)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.threads.add(threading.get_ident())
        time.sleep(self.sleeps_s)
        return super().run(inputs)


def test_a_model_that_takes_its_time_is_never_run_on_the_event_loop() -> None:
    model = Seen(sleeps_s=0.005)  # computing nothing

    async def test() -> None:
        clients = Clients(served(model))
        for value in range(20):
            await clients.ask("one", rows(value))
        assert threading.get_ident() not in model.threads

    run(test)


def test_a_model_that_is_quicker_than_a_thread_s_waking_is_run_on_the_event_loop() -> None:
    model = Seen()

    async def test() -> None:
        clients = Clients(served(model))
        await clients.ask("measured", rows(0))
        assert threading.get_ident() not in model.threads
        while threading.get_ident() not in model.threads:  # at once, unless this machine is very busy
            assert (await clients.ask("next", rows(1))).outputs["y"].tolist() == [1]

    run(test)


def test_preprocessing_ends_with_the_deadline(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(Served, "prepare", lambda self, inputs: go_on.wait(30))

    async def test() -> None:
        clients = Clients(served(gated, preprocess=(PreprocessStep("scale", "x", by=2.0),)))
        with pytest.raises(DeadlineExceeded):
            await clients.ask("hasty", rows(1), time.monotonic() + 0.01)
        go_on.set()
        assert clients.inference.waiting_rows == 0
        assert gated.batches == []

    run(test)


def test_at_the_end_requests_that_are_preprocessed_are_refused(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def slow(self: Served, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        at_work.set()
        go_on.wait(30)
        return dict(inputs)

    async def test() -> None:
        monkeypatch.setattr(Served, "prepare", slow)
        model = served(gated, preprocess=(PreprocessStep("scale", "x", by=2.0),))
        clients = Clients(model, replace(LIMITS, queue_rows=1000))
        tasks = [clients.ask(str(value), rows(value)) for value in range(200)]  # more than there are threads
        await until(at_work)
        clients.inference.close()
        go_on.set()
        for task in tasks:
            with pytest.raises(Overloaded, match="shutting down"):
                await task
        assert clients.inference.busy == 0
        assert gated.batches == []

    run(test)

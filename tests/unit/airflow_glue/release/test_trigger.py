"""What watches a canary on the triggerer, with a controller that plays what it is told to."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tasks.airflow_glue.release.control import Releases
from tasks.airflow_glue.release.trigger import CanaryTrigger, watched
from tasks.errors import PlatformError
from tasks.release.contracts import Phase, Release
from tests import releasing
from tests.releasing import PlayedReleases


def _trigger(control: PlayedReleases) -> CanaryTrigger:
    class Played(CanaryTrigger):
        def control(self) -> Releases:
            return control

    return Played("digits-1", "a test", every_s=0)


async def _first_event(trigger: CanaryTrigger) -> Any:
    return (await anext(trigger.run())).payload


def _watch(*looks: Release | Exception, patience_s: float = 60) -> tuple[list[Release], list[str]]:
    control, told = PlayedReleases(*looks), list[str]()

    async def look() -> Release:
        return control.look("digits-1")

    async def run() -> list[Release]:
        return [release async for release in watched(look, 0, patience_s, told.append)]

    return asyncio.run(run()), told


@pytest.mark.parametrize("end", [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.REFUSED, Phase.HELD])
def test_it_looks_until_the_release_does_not_go_on_by_itself(end: Phase) -> None:
    control = PlayedReleases(
        releasing.release(Phase.CANARY), releasing.release(Phase.PROMOTING), releasing.release(end)
    )
    found = asyncio.run(_first_event(_trigger(control)))
    assert Release.model_validate(found["release"]).phase is end
    assert control.calls.count("look") == 3


def test_the_ground_may_give_way_for_a_while() -> None:
    seen, told = _watch(PlatformError("no engine"), releasing.release(Phase.PROMOTED))
    assert [release.phase for release in seen] == [Phase.PROMOTED]
    assert any("no engine" in line for line in told)


def test_ground_that_stays_away_is_said_so_that_the_task_is_tried_again() -> None:
    with pytest.raises(PlatformError, match="no engine"):
        _watch(PlatformError("no engine"), patience_s=0)


def test_what_the_ground_said_reaches_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.airflow_glue.release.trigger.PATIENCE_S", 0)
    assert asyncio.run(_first_event(_trigger(PlayedReleases(PlatformError("no engine"))))) == {"error": "no engine"}


def test_each_step_is_told_once() -> None:
    first = releasing.release(judgement=releasing.judgement())
    second = releasing.release(step=1, judgement=releasing.judgement(step=1))
    _, told = _watch(first, first, second, releasing.release(Phase.PROMOTED))
    assert [line.partition(":")[0] for line in told] == [
        "step 1 of 3, 1 % of traffic",
        "step 2 of 3, 50 % of traffic",
        "promoted, 100 % of traffic",
    ]


def test_a_look_that_takes_its_time_does_not_hold_up_the_other_triggers() -> None:
    looking, others_ran = threading.Event(), threading.Event()

    def during() -> None:
        looking.set()
        assert others_ran.wait(10), "the event loop was blocked"

    async def another() -> None:
        while not looking.is_set():
            await asyncio.sleep(0)
        others_ran.set()

    async def both() -> None:
        await asyncio.gather(
            _first_event(_trigger(PlayedReleases(releasing.release(Phase.PROMOTED), during=during))), another()
        )

    asyncio.run(both())


def test_a_person_who_stops_the_task_leaves_no_user_on_the_canary() -> None:
    """After the look that was being taken, which would give the canary its weight again."""
    control = _stopped_in_a_look(lambda trigger: trigger.on_kill())
    assert control.calls == ["look", "looked", "leave"]


def test_a_triggerer_that_ends_leaves_the_release_to_the_next_one() -> None:
    """`cleanup` runs whenever a trigger ends, also in a rolling restart: only `on_kill` may touch the canary."""
    control = _stopped_in_a_look(lambda trigger: trigger.cleanup())
    assert "leave" not in control.calls


def test_another_triggerer_can_make_it_again() -> None:
    where, arguments = CanaryTrigger("digits-1", "a run", every_s=2).serialize()
    module, _, name = where.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert again.serialize() == (where, arguments)


def _stopped_in_a_look(then: Callable[[CanaryTrigger], Any]) -> PlayedReleases:
    looking, go_on = threading.Event(), threading.Event()

    def during() -> None:
        looking.set()
        go_on.wait(10)

    control = PlayedReleases(releasing.release(Phase.CANARY), during=during)
    trigger = _trigger(control)

    async def run() -> None:
        task = asyncio.create_task(_first_event(trigger))
        await asyncio.to_thread(looking.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        await then(trigger)
        go_on.set()

    asyncio.run(run())
    return control

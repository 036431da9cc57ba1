"""When a stage runs and when an earlier result is taken: the bookkeeping around any stage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.contracts import ExportReport, ExportRun, Image, ImageRun, SmokeReport, SmokeRun, Verdict, digest_of
from tasks.memory import Event, Memory, Moment
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples

KEY = digest_of("key")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


def memory(
    settings: Settings,
    fresh: bool = False,
    tell: Callable[[Event], None] = lambda event: None,
    is_in_engine: Callable[[Image], bool] = lambda image: True,
) -> Memory:
    store = LocalStore(Path(settings.store_uri))
    return Memory(store, settings, fresh=fresh, tell=tell, is_in_engine=is_in_engine)


class Stage:
    """A stage that counts how often it is worked for, and shows where it works."""

    def __init__(self, settings: Settings, make: Callable[[LocalStore], ExportReport] = samples.export_report) -> None:
        self.settings, self._make = settings, make
        self.ran: list[Path] = []
        self.events: list[Event] = []

    def __call__(self, *, fresh: bool = False, key: str = KEY, label: str = "onnx") -> ExportRun:
        return memory(self.settings, fresh, self.events.append).run(ExportRun, "export", label, key, self._work)

    def _work(self, work: Path) -> ExportReport:
        assert work.is_dir()
        (work / "file").write_text("content")
        self.ran.append(work)
        return self._make(LocalStore(Path(self.settings.store_uri)))

    def moments(self) -> list[Moment]:
        return [event.moment for event in self.events]


def failed(store: LocalStore) -> ExportReport:
    return samples.failed_export()


def inconclusive(store: LocalStore) -> ExportReport:
    found = samples.finding(verdict=Verdict.INCONCLUSIVE)
    return ExportReport(verdict=Verdict.INCONCLUSIVE, findings=(found,), format="onnx")


def test_the_second_call_takes_the_first_ones_result(settings: Settings) -> None:
    stage = Stage(settings)
    first, second = stage(), stage()
    assert len(stage.ran) == 1
    assert (first.reused, second.reused) == (False, True)
    assert second.result == first.result
    assert stage.moments() == [Moment.STARTED, Moment.FINISHED, Moment.REUSED]


def test_a_reused_result_says_from_when_it_is(settings: Settings) -> None:
    stage = Stage(settings)
    before = datetime.now(UTC)
    first = stage()
    assert first.made_at is not None
    assert before <= first.made_at <= datetime.now(UTC)
    assert stage().made_at == first.made_at


def test_another_key_is_worked_for(settings: Settings) -> None:
    stage = Stage(settings)
    stage()
    stage(key=digest_of("another"))
    assert len(stage.ran) == 2


def test_a_reused_result_is_called_as_the_caller_calls_it(settings: Settings) -> None:
    stage = Stage(settings)
    stage(label="onnx")
    assert stage(label="the same under another name").label == "the same under another name"


def test_fresh_works_again_and_replaces_what_was_remembered(settings: Settings) -> None:
    stage = Stage(settings)
    stage()
    assert not stage(fresh=True).reused
    assert len(stage.ran) == 2
    assert stage().reused


def test_a_result_whose_bytes_are_gone_is_worked_for_again(settings: Settings) -> None:
    stage = Stage(settings)
    run = stage()
    assert run.result.export is not None
    store = LocalStore(Path(settings.store_uri))
    store._object(run.result.export.files.files[0].digest).unlink()
    assert not stage().reused
    assert stage().reused


def test_a_result_that_another_version_wrote_is_worked_for_again(settings: Settings) -> None:
    stage = Stage(settings)
    stage()
    LocalStore(Path(settings.store_uri)).put_result("export", KEY, '{"another": "form"}')
    assert not stage().reused


def test_a_failed_verdict_stands(settings: Settings) -> None:
    stage = Stage(settings, failed)
    stage()
    assert stage().result.verdict is Verdict.FAILED
    assert len(stage.ran) == 1


def test_an_inconclusive_verdict_does_not_stand(settings: Settings) -> None:
    stage = Stage(settings, inconclusive)
    stage()
    stage()
    assert len(stage.ran) == 2


def test_a_failed_smoke_does_not_stand_and_a_passed_one_does(settings: Settings) -> None:
    reports = iter([Verdict.FAILED, Verdict.PASSED])

    def work(_: Path) -> SmokeReport:
        return samples.smoke_report(verdict=next(reports))

    runs = [memory(settings).run(SmokeRun, "smoke", "onnx × c6i.large", KEY, work) for _ in range(3)]
    assert [run.result.verdict for run in runs] == [Verdict.FAILED, Verdict.PASSED, Verdict.PASSED]
    assert [run.reused for run in runs] == [False, False, True]


def test_two_at_once_do_the_work_once(settings: Settings) -> None:
    inside, go = threading.Event(), threading.Event()

    def slowly(store: LocalStore) -> ExportReport:
        inside.set()
        go.wait()
        return samples.export_report(store)

    stage, second = Stage(settings, slowly), Stage(settings)
    runs: list[ExportRun] = []
    first = threading.Thread(target=lambda: runs.append(stage()))
    first.start()
    inside.wait()
    waiting = threading.Thread(target=lambda: runs.append(second()))
    waiting.start()
    while Moment.WAITING not in second.moments():
        pass
    go.set()
    first.join()
    waiting.join()
    assert (len(stage.ran), len(second.ran)) == (1, 0)
    assert sorted(run.reused for run in runs) == [False, True]  # either thread may come back first


@pytest.mark.parametrize("error", [RuntimeError("broke"), KeyboardInterrupt()])
def test_what_breaks_leaves_no_file_no_lock_and_no_result(settings: Settings, error: BaseException) -> None:
    def broken(store: LocalStore) -> ExportReport:
        raise error

    stage = Stage(settings, broken)
    with pytest.raises(type(error)):
        stage()
    assert not stage.ran[0].exists()
    assert list(settings.work.iterdir()) == []
    assert list((settings.home / "locks").iterdir()) == []
    assert stage.moments() == [Moment.STARTED, Moment.STOPPED]
    assert not Stage(settings)().reused


def test_what_ends_well_leaves_no_file_and_no_lock_either(settings: Settings) -> None:
    Stage(settings)()
    assert list(settings.work.iterdir()) == []
    assert list((settings.home / "locks").iterdir()) == []


def test_events_say_what_came_out_and_how_long_it_took(settings: Settings) -> None:
    stage = Stage(settings, failed)
    stage()
    started, finished = stage.events
    assert (started.verdict, started.duration_s) == (None, None)
    assert finished.verdict is Verdict.FAILED
    assert finished.duration_s is not None
    assert (finished.stage, finished.label) == ("export", "onnx")


def test_an_image_is_taken_only_while_the_engine_has_it(settings: Settings) -> None:
    def image(there: bool) -> ImageRun:
        return memory(settings, is_in_engine=lambda image: there).run(
            ImageRun, "image", "onnx", KEY, lambda work: samples.image()
        )

    assert [image(there).reused for there in (True, True, False, True)] == [False, True, False, True]

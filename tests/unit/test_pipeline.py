"""When a stage runs and when an earlier result is taken: the pipeline's bookkeeping around any stage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contracts import ExportReport, ExportRun, SmokeReport, SmokeRun, Verdict, digest_of
from tasks.errors import EngineUnavailable, GateBlocked
from tasks.pipeline import Event, Moment, Pipeline, Runs
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples

KEY = digest_of("key")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


class Stage:
    """A stage that counts how often it is worked for, and shows where it works."""

    def __init__(self, settings: Settings, make: Callable[[LocalStore], ExportReport] = samples.export_report) -> None:
        self.settings, self._make = settings, make
        self.ran: list[Path] = []
        self.events: list[Event] = []

    def __call__(self, *, fresh: bool = False, key: str = KEY, label: str = "onnx") -> ExportRun:
        pipeline = Pipeline(self.settings, fresh=fresh, on_event=self.events.append)
        return pipeline._stage(ExportRun, "export", label, key, self._work)

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
    pipeline = Pipeline(settings)
    reports = iter([Verdict.FAILED, Verdict.PASSED])

    def work(_: Path) -> SmokeReport:
        return samples.smoke_report(verdict=next(reports))

    runs = [pipeline._stage(SmokeRun, "smoke", "onnx × c6i.large", KEY, work) for _ in range(3)]
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


def test_making_a_pipeline_writes_nothing(settings: Settings) -> None:
    Pipeline(settings)
    assert not settings.home.exists()


def test_events_say_what_came_out_and_how_long_it_took(settings: Settings) -> None:
    stage = Stage(settings, failed)
    stage()
    started, finished = stage.events
    assert (started.verdict, started.duration_s) == (None, None)
    assert finished.verdict is Verdict.FAILED
    assert finished.duration_s is not None
    assert (finished.stage, finished.label) == ("export", "onnx")


def test_no_image_is_built_on_parity_that_did_not_pass(settings: Settings) -> None:
    store = LocalStore(Path(settings.store_uri))
    parity = samples.parity_report(store, verdict=Verdict.INCONCLUSIVE)
    with pytest.raises(GateBlocked, match="inconclusive"):
        Pipeline(settings).image(samples.spec(), samples.artifact(store), samples.export(store), parity)


def test_the_manifest_is_published_before_mlflow_is_asked(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database" * 1000)
    unreachable = replace(settings, tracking_uri=f"sqlite:///{broken}")
    pipeline = Pipeline(unreachable)
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    evidence = (made.artifact, made.exports, made.parity, made.images, made.smoke)
    assert pipeline.publish(samples.spec(), *evidence) == made
    text = store.get_result("package", made.digest)
    assert text is not None
    assert type(made).model_validate_json(text) == made


def test_the_same_platform_error_of_many_cells_is_noted_once(settings: Settings) -> None:
    runs = Runs(_ingested(settings))
    for message in ("no engine", "no engine", "another"):
        with runs.noting_errors():
            raise EngineUnavailable(message)
    assert [str(error) for error in runs.errors] == ["no engine", "another"]


def test_what_is_no_platform_error_is_not_swallowed(settings: Settings) -> None:
    runs = Runs(_ingested(settings))
    with pytest.raises(ValueError, match="a mistake"), runs.noting_errors():
        raise ValueError("a mistake")


def _ingested(settings: Settings):  # type: ignore[no-untyped-def]
    from tasks.contracts import IngestRun

    artifact = samples.artifact(LocalStore(Path(settings.store_uri)))
    return IngestRun(stage="ingest", label="digits", key=KEY, reused=False, duration_s=0, result=artifact)

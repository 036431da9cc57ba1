"""What the pipeline does between and after the stages; the stages themselves are in tests/integration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.contracts import IngestRun, Verdict, digest_of
from tasks.errors import EngineUnavailable, GateBlocked
from tasks.pipeline import Pipeline, Runs
from tasks.settings import Settings
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "home")})


def test_making_a_pipeline_writes_nothing(settings: Settings) -> None:
    Pipeline(settings)
    assert not settings.home.exists()


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


@pytest.mark.parametrize("decided", [Verdict.PASSED, Verdict.FAILED])
def test_a_run_that_cannot_decide_leaves_what_was_decided(settings: Settings, decided: Verdict) -> None:
    pipeline = Pipeline(settings)
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    before = [report.model_copy(update={"verdict": decided}) for report in made.smoke]
    earlier = pipeline.publish(samples.spec(), made.artifact, made.exports, made.parity, made.images, before)
    undecided = pipeline.publish(samples.spec(), made.artifact, made.exports, made.parity, [], [])
    assert undecided.verdict is Verdict.INCONCLUSIVE
    assert undecided.digest == earlier.digest
    text = store.get_result("package", earlier.digest)
    assert text is not None
    assert type(made).model_validate_json(text) == earlier


def test_what_was_never_decided_is_replaced(settings: Settings) -> None:
    pipeline = Pipeline(settings)
    store = LocalStore(Path(settings.store_uri))
    made = samples.package(store)
    undecided = pipeline.publish(samples.spec(), made.artifact, made.exports, made.parity, [], [])
    pipeline.publish(samples.spec(), made.artifact, made.exports, made.parity, made.images, made.smoke)
    text = store.get_result("package", undecided.digest)
    assert text is not None
    assert type(made).model_validate_json(text).verdict is Verdict.PASSED


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


def _ingested(settings: Settings) -> IngestRun:
    artifact = samples.artifact(LocalStore(Path(settings.store_uri)))
    return IngestRun(stage="ingest", label="digits", key=digest_of("key"), reused=False, duration_s=0, result=artifact)

"""Tuning a real image: what is measured, what is written, and that nothing else is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.contract import Batching
from serving.package import read_contract
from tasks.contracts import Image
from tasks.image import ContainerSpec, Engine, run
from tasks.terminal import Stopped
from tasks.tune import Measurement, tune
from tasks.tune.run import COMPONENT, Subject, open_image
from tasks.tune.search import OutOfTime
from tasks.tune.write import TUNING_FILE, write_tuned
from tests.integration.image.conftest import Case


@pytest.fixture(scope="module")
def image(case: Callable[[str], Case]) -> Image:
    return case("onnx").build()


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few requests as can show anything."""
    monkeypatch.setattr("tasks.tune.run._PROBE_REQUESTS", 320)


def subject(engine: Engine, image: Image, work: Path) -> Subject:
    found = engine.find_image(image.reference)
    assert found is not None
    return open_image(found, engine, work, cpus=1, memory_bytes=512 << 20)


def left() -> list[str | None]:
    import docker

    client = docker.from_env()
    found = client.containers.list(all=True, filters={"label": [f"io.slipway.component={COMPONENT}"]})
    client.close()
    return [container.name for container in found]


def test_settings_are_measured_in_the_real_container_and_nothing_is_left(
    engine: Engine, image: Image, tmp_path: Path
) -> None:
    told: list[Measurement] = []

    def tell(item: Measurement) -> None:
        told.append(item)
        if len(told) > 1:
            raise OutOfTime

    # An objective that any machine keeps, and no more measurements than show how it goes.
    found = tune(subject(engine, image, tmp_path), engine, p99_ms=30_000, rows=2, budget_s=600, tell=tell)
    assert found.measurements[:2] == tuple(told[:2])
    assert found.choice is not None
    assert (found.out_of_time, found.confirmed) == (True, False)
    first = found.measurements[0]
    assert first.setting == Batching(batch_rows=32, batch_window_ms=0.0, workers=2, threads=1)
    assert first.late == first.refused == 0
    assert first.asked > 299
    assert left() == []


def test_who_stops_it_leaves_nothing(engine: Engine, image: Image, tmp_path: Path) -> None:
    def stop(item: Measurement) -> None:
        raise Stopped(130)

    with pytest.raises(Stopped):
        tune(subject(engine, image, tmp_path), engine, p99_ms=30_000, rows=None, budget_s=60, tell=stop)
    assert left() == []


def test_the_choice_is_an_image_of_its_own_that_serves_by_it(
    engine: Engine, image: Image, case: Callable[[str], Case], tmp_path: Path
) -> None:
    measured = subject(engine, image, tmp_path)
    assert measured.contract.p99_ms == 50.0
    setting = Batching(batch_rows=4, batch_window_ms=1.5, workers=3, threads=1)
    reference, tuned = write_tuned(
        image.reference, measured.image, measured.contract, setting, b"{}\n", engine, case("onnx").settings
    )
    assert reference.startswith(f"{image.reference}-tuned-")
    untouched = engine.find_image(image.reference)
    assert untouched is not None
    assert untouched.id == image.digest
    assert tuned.layers[:-1] == untouched.layers
    engine.copy_out(tuned.id, "/package", tmp_path / "tuned")
    contract = read_contract(tmp_path / "tuned")
    assert contract.batching == setting
    assert (tmp_path / "tuned" / TUNING_FILE).read_bytes() == b"{}\n"
    assert {file.path for file in contract.files} == {file.path for file in measured.contract.files} | {TUNING_FILE}
    done = run(engine, ContainerSpec(tuned.id, "slipway-test-tuned", "image-test", command=("selftest",)), 60)
    assert done.state.exit_code == 0, done.logs

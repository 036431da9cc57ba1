"""Arms: real serving images as containers that stay."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tasks.contracts import digest_of
from tasks.errors import PlatformError
from tasks.image import Engine
from tasks.release.arms import Arms, Resources
from tasks.release.contracts import Deployed
from tasks.settings import Settings
from tests.integration.release.conftest import deployed_as
from tests.integration.smoke.packages import Packages

pytestmark = pytest.mark.docker


def test_an_arm_is_started_once_and_answers_at_its_own_address(
    engine: Engine, settings: Settings, model: str, deployed: Deployed
) -> None:
    arms = Arms(model, engine, settings)
    first = arms.start(deployed, Resources(cpus=1, memory_bytes=512 << 20))
    arms.until_ready(first, 30)
    assert arms.start(deployed) == first
    assert first.name.startswith(f"slipway-{model}-{deployed.package.removeprefix('sha256:')[:12]}-")
    url = f"http://{first.endpoint.host}:{first.endpoint.port}/v2/health/ready"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200


def test_an_arm_keeps_its_address_when_others_start_in_another_order(
    engine: Engine, settings: Settings, model: str, packages: Packages
) -> None:
    arms = Arms(model, engine, settings)
    both = [arms.start(deployed_as(packages, name)) for name in ("first", "second")]
    before = [arm.endpoint for arm in both]
    for arm in both:
        subprocess.run(["docker", "stop", "--time", "5", arm.container], check=True, capture_output=True)
    for arm in reversed(both):
        subprocess.run(["docker", "start", arm.container], check=True, capture_output=True)
    for arm in both:
        arms.until_ready(arm, 30)
    assert [found.endpoint for arm in both if (found := arms.find(arm.package))] == before
    assert before[0] != before[1]


def test_an_arm_outlives_the_process_that_started_it(
    engine: Engine, settings: Settings, model: str, deployed: Deployed
) -> None:
    code = (
        "import sys; from tasks.image import connect; from tasks.release.arms import Arms;"
        "from tasks.release.contracts import Deployed; from tasks.settings import Settings;"
        "Arms(sys.argv[1], connect(), Settings.from_environment({'SLIPWAY_HOME': sys.argv[2]}))"
        ".start(Deployed.model_validate_json(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, model, str(settings.home), deployed.model_dump_json()]
    subprocess.run(command, check=True)
    engine.sweep("serving")
    arms = Arms(model, engine, settings)
    found = arms.find(deployed.package)
    assert found is not None
    arms.until_ready(found, 30)


def test_an_arm_that_is_killed_is_started_again_by_the_engine(
    engine: Engine, settings: Settings, model: str, deployed: Deployed
) -> None:
    arms = Arms(model, engine, settings)
    arm = arms.start(deployed)
    arms.until_ready(arm, 30)
    started = engine.state(arm.container).started_at
    state = subprocess.run(
        ["docker", "inspect", "--format", "{{.State.Pid}}", arm.container], check=True, capture_output=True, text=True
    )
    subprocess.run(["kill", "-9", state.stdout.strip()], check=True)
    while engine.state(arm.container).started_at == started:
        time.sleep(0.05)
    arms.until_ready(arm, 30)


def test_stopping_lets_an_arm_end_in_order_and_leaves_nothing(
    engine: Engine, settings: Settings, model: str, deployed: Deployed
) -> None:
    arms = Arms(model, engine, settings)
    arms.until_ready(arms.start(deployed), 30)
    arms.stop(deployed.package)
    arms.stop(deployed.package)
    assert arms.all() == ()


def test_predictions_are_written_where_they_were_asked_for(
    engine: Engine, settings: Settings, model: str, deployed: Deployed, packages: Packages, tmp_path: Path
) -> None:
    arms = Arms(model, engine, settings)
    arm = arms.start(
        deployed, Resources(predictions=tmp_path / "predictions", environment={"SERVING_PREDICTION_LOG_SAMPLE": "1"})
    )
    arms.until_ready(arm, 30)
    body = b'{"inputs": [{"name": "x", "shape": [1, 6], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 6]}]}'
    name = packages.tiny("onnx").spec.name
    request = urllib.request.Request(
        f"http://{arm.endpoint.host}:{arm.endpoint.port}/v2/models/{name}/infer",
        data=body,
        headers={"content-type": "application/json"},
    )
    for _ in range(50):
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200
    arms.stop(deployed.package)
    assert list((tmp_path / "predictions").glob("predictions-*.jsonl"))


def test_an_image_that_refuses_its_package_is_told_with_its_own_words(
    engine: Engine, settings: Settings, model: str, deployed: Deployed
) -> None:
    arms = Arms(model, engine, settings)
    arm = arms.start(deployed, Resources(environment={"SERVING_THREADS": "many"}))
    with pytest.raises(PlatformError, match="SERVING_THREADS"):
        arms.until_ready(arm, 3)


def test_another_home_sees_none_of_the_arms(
    engine: Engine, settings: Settings, model: str, deployed: Deployed, tmp_path: Path
) -> None:
    Arms(model, engine, settings).start(deployed)
    other = Settings.from_environment({"SLIPWAY_HOME": str(tmp_path / "other")})
    assert Arms(model, engine, other).find(digest_of("first")) is None

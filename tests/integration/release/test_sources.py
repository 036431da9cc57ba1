"""Counts of real servers behind the real HAProxy: read from their pages, and through a real Prometheus."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tasks.image import Engine
from tasks.release.arms import Arms
from tasks.release.contracts import Arm, ArmCounts, Counted, Endpoint, Route
from tasks.release.router.haproxy import HaproxyRouter
from tasks.release.sources import find_source
from tasks.release.sources.prometheus import Prometheus
from tasks.release.sources.servers import Servers
from tasks.settings import Settings
from tests.integration.release.conftest import deployed_as
from tests.integration.release.stubs import Stub, stub
from tests.integration.smoke.packages import Packages

pytestmark = pytest.mark.docker
BODY = (
    b'{"inputs": [{"name": "x", "shape": [2, 6], "datatype": "UINT8", "data": [9, 2, 3, 4, 5, 6, 255, 2, 3, 4, 5, 6]}]}'
)


class Released:
    """Two arms of the tiny model behind a router that splits by half."""

    def __init__(self, engine: Engine, settings: Settings, model: str, port: int, packages: Packages) -> None:
        self.arms = Arms(model, engine, settings)
        self.deployed = {arm: deployed_as(packages, arm) for arm in Arm}
        serving = {arm: self.arms.start(deployed) for arm, deployed in self.deployed.items()}
        for started in serving.values():
            self.arms.until_ready(started, 30)
        self.endpoints = {arm: started.endpoint for arm, started in serving.items()}
        self.router = HaproxyRouter(model, engine, settings)
        stable, canary = self.endpoints[Arm.STABLE], self.endpoints[Arm.CANARY]
        self.router.ensure(Route(model=model, port=port, stable=stable, canary=canary, weight=50, p99_ms=1000))
        self._url = f"http://127.0.0.1:{port}/v2/models/{packages.tiny('onnx').spec.name}/infer"

    def ask(self, requests: int, body: bytes = BODY) -> list[int]:
        statuses = []
        for number in range(requests):
            request = urllib.request.Request(
                self._url, body, {"content-type": "application/json", "x-request-id": f"r{number}"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    statuses.append(answer.status)
            except urllib.error.HTTPError as error:
                statuses.append(error.code)
        return statuses


@pytest.fixture
def released(engine: Engine, settings: Settings, model: str, port: int, packages: Packages) -> Released:
    return Released(engine, settings, model, port, packages)


def whole(found: Mapping[Arm, ArmCounts | None]) -> tuple[ArmCounts, ArmCounts]:
    stable, canary = found[Arm.STABLE], found[Arm.CANARY]
    assert stable is not None
    assert canary is not None
    return stable, canary


def test_both_arms_are_counted_and_a_stopped_one_is_not_known(released: Released) -> None:
    source = find_source("servers", released.endpoints, released.router, 1000)
    assert released.ask(40) == [200] * 40
    assert set(released.ask(6, b"{}")) == {400}
    stable, canary = whole(source.read())
    assert stable.requests + canary.requests == 46
    assert stable.answered + canary.answered == 40
    assert stable.rows + canary.rows == 80
    assert (stable.errors, canary.errors, stable.slow, canary.slow) == (0, 0, 0, 0)
    assert sum(canary.predictions["y"].values()) == 2 * canary.answered
    assert min(stable.requests, canary.requests) > 5
    released.arms.stop(released.deployed[Arm.CANARY].package)
    assert released.ask(20) == [200] * 20
    after = source.read()
    assert after[Arm.CANARY] is None
    assert after[Arm.STABLE] is not None
    counted = released.router.counts()
    assert counted is not None
    assert counted[Arm.CANARY].failed == counted[Arm.CANARY].hidden > 5


def test_an_arm_that_was_started_again_counts_under_another_name(released: Released) -> None:
    source = find_source("servers", released.endpoints, released.router, 1000)
    before = whole(source.read())[1]
    there = released.arms.start(released.deployed[Arm.CANARY])
    subprocess.run(["docker", "restart", there.container], check=True, capture_output=True)
    released.arms.until_ready(there, 30)
    after = whole(source.read())[1]
    assert after.incarnation != before.incarnation


@pytest.fixture(params=["nothing", "another page", "hangs"])
def broken(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    with stub("broken") as made:
        if request.param == "nothing":
            made.kill()
        if request.param == "hangs":
            _hang(made)
        yield made.endpoint


def _hang(made: Stub) -> None:
    from tests.integration.release.stubs import Mode

    made.mode = Mode.HANG


def test_a_page_that_is_none_leaves_the_other_arm_known(released: Released, broken: Endpoint) -> None:
    arms = {Arm.STABLE: released.endpoints[Arm.STABLE], Arm.CANARY: broken}
    found = Servers(arms, released.router, 1000).read()
    assert found[Arm.CANARY] is None
    assert found[Arm.STABLE] is not None


def test_a_router_that_does_not_answer_leaves_nothing_known(released: Released) -> None:
    source = find_source("servers", released.endpoints, released.router, 1000)
    released.router.remove()
    assert source.read() == {Arm.STABLE: None, Arm.CANARY: None}


@pytest.fixture
def prometheus(released: Released, tmp_path: Path, port: int) -> Iterator[str]:
    """Debian's Prometheus, which scrapes both arms; its address."""
    with stub("free") as other:
        listens = other.endpoint.port
    targets = ", ".join(f"'{endpoint.host}:{endpoint.port}'" for endpoint in released.endpoints.values())
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: arms, static_configs: [{{targets: [{targets}]}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    with subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{listens}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        yield f"http://127.0.0.1:{listens}"
        process.terminate()


def until(source: Counted, holds: Callable[[Mapping[Arm, ArmCounts | None]], bool]) -> Mapping[Arm, ArmCounts | None]:
    deadline = time.monotonic() + 60
    while not holds(found := source.read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_prometheus_says_the_same_and_forgets_an_arm_that_is_gone(released: Released, prometheus: str) -> None:
    released.ask(40)
    expected = whole(Servers(released.endpoints, released.router, 1000).read())
    source = Prometheus(released.endpoints, released.router, 1000, prometheus)
    found = until(
        source, lambda read: all(read.values()) and sum(arm.answered for arm in read.values() if arm is not None) == 40
    )
    assert whole(found) == expected
    alone = whole(Prometheus(released.endpoints, None, 1000, prometheus).read())
    assert sum(arm.requests for arm in alone) == 40
    released.arms.stop(released.deployed[Arm.CANARY].package)
    until(source, lambda read: read[Arm.CANARY] is None and read[Arm.STABLE] is not None)


def test_a_prometheus_that_does_not_answer_leaves_nothing_known(released: Released) -> None:
    source = Prometheus(released.endpoints, released.router, 1000, "http://127.0.0.1:1")
    assert source.read() == {Arm.STABLE: None, Arm.CANARY: None}

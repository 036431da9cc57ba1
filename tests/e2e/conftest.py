"""One real Airflow and one real MLflow for all end-to-end tests: a throw-away SLIPWAY_HOME on free ports.

Models are copies of the examples under names of their own, so that what the tests build is not what a user built.
Afterwards nothing is left: no process, no container, no image, no file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from scripts import services
from scripts.airflow_api import AirflowApi, Run
from scripts.airflow_home import credentials
from tasks.contracts import Package
from tasks.image.engine import COMPONENT_LABEL
from tasks.settings import Settings
from tasks.smoke.catalogue import OWN_FILE_VARIABLE
from tasks.smoke.host import this_machine

if TYPE_CHECKING:
    from docker.models.images import Image

    import docker

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NIGHTLY = "package_model", "nightly_packaging"

#: What every model of these tests is called, at the beginning; another suite on the same engine has other names.
PREFIX = f"e2e-{os.getpid():x}-"
RUN_TIMEOUT_S = 400

#: A type with this machine's processor and half of it: proven natively wherever these tests run, as this-machine is.
HALF = "half-of-it"


@dataclass(frozen=True)
class Slipway:
    """The running services, and how to ask them."""

    api: AirflowApi
    settings: Settings
    where: services.Endpoints
    models: Path

    def package(self, spec: Path, **conf: Any) -> Run:
        """Package a model through Airflow; the run, once it is over."""
        return self.api.wait(self.start(spec, **conf), RUN_TIMEOUT_S)

    def start(self, spec: Path, **conf: Any) -> Run:
        return self.api.trigger(PACKAGE, {"spec": str(spec), **conf})

    def page(self, path: str) -> httpx.Response:
        """A page of Slipway's in Airflow, as somebody sees it who is signed in."""
        user = credentials(self.settings)
        who = {"username": user.name, "password": user.password}
        with httpx.Client(base_url=self.where.airflow, trust_env=False) as client:
            token = client.post("/auth/token", json=who).json()["access_token"]
            return client.get(path, headers={"Authorization": f"Bearer {token}"})

    def states(self, run: Run) -> dict[str, str | None]:
        """Task or cell (`smoke onnx × this-machine`) → state."""
        return {task.name: task.state for task in self.api.tasks(run)}

    def package_of(self, run: Run) -> Package | None:
        found = self.api.left(run, "register", "result")
        return None if found is None else Package.model_validate(found)

    def model(self, example: str, name: str) -> Path:
        """A trained copy of an example under another name; the spec's path.

        Its budgets are wide, because these tests may share their machine: how fast it is, is not what they ask. Its
        instance types need no emulation, which takes minutes and has tests of its own.
        """
        shutil.copytree(self.models / ".trained" / example, self.models / name)
        spec = self.models / name / "model.yaml"
        text = spec.read_text().replace(f"name: {example}", f"name: {name}").replace("c4.large", HALF)
        spec.write_text(re.sub(r"p99_ms: \d+, cold_start_s: \d+", "p99_ms: 5000, cold_start_s: 120", text))
        return spec


@pytest.fixture(scope="session")
def slipway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slipway]:
    """Airflow and MLflow, up and healthy."""
    home, models = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("models")
    os.environ[OWN_FILE_VARIABLE] = str(_own_types(models / "types.yaml"))
    settings = Settings.from_environment({"SLIPWAY_HOME": str(home)})
    for variable in ("SLIPWAY_STORE", "MLFLOW_TRACKING_URI", "SLIPWAY_REGISTRY", "SLIPWAY_SPECS"):
        assert variable not in os.environ, f"{variable} would lead these tests out of their own home"
    try:
        where = services.up(settings, services.Ports.free(), say=lambda _: None)
        _train(models, settings)
        with AirflowApi(where.airflow, credentials(settings)) as api:
            api.wait_for_dags(PACKAGE, NIGHTLY)
            yield Slipway(api, settings, where, models)
    finally:
        services.down(settings, say=lambda _: None)
        _remove_images()
        del os.environ[OWN_FILE_VARIABLE]
    assert containers() == []


def containers() -> list[str]:
    """The names of all containers, running or not, that were started from an image of these tests' models."""
    import docker

    client = docker.from_env()
    try:
        ours = {image.id for image in _images(client)}
        labelled = client.api.containers(all=True, filters={"label": COMPONENT_LABEL})
        return [str(found["Names"][0]) for found in labelled if found["ImageID"] in ours]
    finally:
        client.close()


def _own_types(path: Path) -> Path:
    here = this_machine()
    processor = {
        "vendor": "intel",
        "architecture": here.architecture,
        "level": here.level,
        "features": list(here.cpus[0].features),
        "sources": ["here"],
    }
    half = {"provider": "local", "vcpus": 1, "memory_gib": 2, "cpus": ["here"], "sources": ["here"]}
    document = {
        "sources": {"here": {"title": "this machine", "url": "https://example.com"}},
        "cpus": {"here": processor},
        "types": {HALF: half},
    }
    path.write_text(json.dumps(document))  # which is YAML too
    return path


def _train(models: Path, settings: Settings) -> None:
    trained = models / ".trained"
    ignore = shutil.ignore_patterns("artifacts", "__pycache__", "node_modules")
    shutil.copytree(ROOT / "examples", trained, ignore=ignore)
    environment = {**os.environ, "SLIPWAY_HOME": str(settings.home)}
    for example in ("digits-cnn", "breast-cancer-classifier"):
        subprocess.run(
            [sys.executable, str(trained / example / "train.py")],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )


def _remove_images() -> None:
    import docker

    client = docker.from_env()
    try:
        for image in _images(client):
            for tag in image.tags:
                client.images.remove(tag)
    finally:
        client.close()


def _images(client: docker.DockerClient) -> list[Image]:
    """The images of these tests' models."""
    return [image for image in client.images.list() if any(tag.startswith(f"slipway/{PREFIX}") for tag in image.tags)]

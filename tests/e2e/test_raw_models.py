"""A model of photos and a model of texts, from the trained weights to a container that is asked with what people have.

What the trained model itself says to a photo or a text, the container must say.
"""

from __future__ import annotations

import base64
import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.golden import read_golden
from tasks.contracts import Package, Verdict
from tasks.image import ContainerSpec, Engine, connect, run, running
from tasks.image.engine import ISOLATED
from tasks.image.runtimes import ensure_runtime
from tasks.manifest import assemble
from tasks.pipeline import Pipeline
from tasks.settings import Settings
from tasks.smoke.catalogue import instance_type
from tasks.smoke.host import Host
from tasks.smoke.stage import prove
from tasks.spec import ModelSpec, load_spec
from tasks.store import fetch, read_bytes
from tests.e2e.raw_models import TRAIN, Trained
from tests.integration.smoke.bench import QUICK

pytestmark = pytest.mark.docker

#: How far apart two runtimes may be that compute the same in float32.
NEAR = {"rtol": 1e-4, "atol": 1e-4}


@dataclass(frozen=True)
class Packaged:
    """What came out of the pipeline, and the container that runs its image."""

    trained: Trained
    package: Package
    pipeline: Pipeline
    engine: Engine
    container: str

    @cached_property
    def url(self) -> str:
        port = self.engine.host_port(self.container, 8000)
        return f"http://127.0.0.1:{port}/v2/models/{self.package.name}/infer"

    def ask(self, content: bytes, **headers: str) -> NDArray[Any]:
        answered = httpx.post(self.url, content=content, headers=headers, trust_env=False)
        assert answered.status_code == 200, answered.text
        (output,) = answered.json()["outputs"]
        return np.array(output["data"]).reshape(output["shape"])


@pytest.fixture(scope="module", params=TRAIN)
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    """Each model once through every stage, and its image started once."""
    folder, name = tmp_path_factory.mktemp(request.param), f"e2e-{request.param}-{uuid.uuid4().hex[:8]}"
    trained = TRAIN[request.param](folder, name)
    spec, engine = load_spec(folder / "model.yaml"), connect()
    pipeline = Pipeline(Settings.from_environment({"SLIPWAY_HOME": str(folder / "home")}))
    try:
        package = _package(pipeline, spec, engine, folder / "smoke")
        assert package.verdict is Verdict.PASSED, package.findings
        container = ContainerSpec(
            package.images[0].digest, name, "e2e-test", network=ISOLATED, ports=(8000,), cpus=1, memory_bytes=1 << 30
        )
        with running(engine, container) as identity:
            yield Packaged(trained, package, pipeline, engine, _ready(engine, identity))
    finally:
        for image in engine.images(f"org.opencontainers.image.title={name}"):
            for tag in image.tags:
                engine.remove_image(tag)


def _package(pipeline: Pipeline, spec: ModelSpec, engine: Engine, work: Path) -> Package:
    """Through every stage; smoke asks as little as shows what is wrong, and does not wait for a quiet machine."""
    artifact = pipeline.ingest(spec).result
    exported = pipeline.export(spec, artifact, "onnx").result
    assert exported.export is not None, exported.findings
    parity = pipeline.parity(spec, artifact, exported.export).result
    assert parity.verdict is Verdict.PASSED, parity.findings
    image = pipeline.image(spec, artifact, exported.export, parity).result
    (kind,) = map(instance_type, spec.smoke.instance_types)
    work.mkdir()
    smoke = prove(spec, image, parity, kind, pipeline.store, engine, work, host=Host.this(), effort=QUICK)
    return assemble(spec, artifact, [exported], [parity], [image], [smoke])


def _ready(engine: Engine, container: str) -> str:
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport, trust_env=False) as client:
        while engine.state(container).running:
            try:
                port = engine.host_port(container, 8000)
                if client.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200:
                    return container
            except httpx.TransportError:
                continue
    raise AssertionError(engine.logs(container))


def _in_json(row: Any) -> str:
    return base64.b64encode(row).decode() if isinstance(row, bytes) else row


def _entry(packaged: Packaged, rows: int, **more: Any) -> bytes:
    entry = {"name": packaged.trained.input, "datatype": "BYTES", "shape": [rows], **more}
    return json.dumps({"inputs": [entry]}).encode()


def test_raw_rows_in_json_are_answered_as_the_trained_model_answers_them(packaged: Packaged) -> None:
    rows = packaged.trained.rows
    found = packaged.ask(_entry(packaged, len(rows), data=[_in_json(row) for row in rows]))
    np.testing.assert_allclose(found, packaged.trained.answer(rows), **NEAR)


def test_the_same_rows_in_binary_have_the_same_answer(packaged: Packaged) -> None:
    rows = [row if isinstance(row, bytes) else row.encode() for row in packaged.trained.rows]
    data = b"".join(struct.pack("<I", len(row)) + row for row in rows)
    head = _entry(packaged, len(rows), parameters={"binary_data_size": len(data)})
    found = packaged.ask(head + data, **{"Inference-Header-Content-Length": str(len(head))})
    np.testing.assert_allclose(found, packaged.trained.answer(packaged.trained.rows), **NEAR)


def test_a_row_that_is_none_is_refused_by_name_and_the_container_lives(packaged: Packaged) -> None:
    wrong = httpx.post(packaged.url, content=_entry(packaged, 1, data=[7]), trust_env=False)
    assert wrong.status_code == 400
    assert f"input '{packaged.trained.input}'" in wrong.json()["error"]
    one = packaged.trained.rows[:1]
    found = packaged.ask(_entry(packaged, 1, data=[_in_json(one[0])]))
    np.testing.assert_allclose(found, packaged.trained.answer(one), **NEAR)


def test_golden_samples_are_raw_and_were_replayed(packaged: Packaged, tmp_path: Path) -> None:
    (parity,), (smoke,) = packaged.package.parity, packaged.package.smoke
    assert parity.golden is not None
    golden = read_golden(fetch(packaged.pipeline.store, parity.golden, tmp_path / "golden.npz"))
    assert list(golden.inputs) == [packaged.trained.input]
    raw = list(golden.inputs[packaged.trained.input])
    np.testing.assert_allclose(golden.outputs[packaged.trained.output], packaged.trained.answer(raw), **NEAR)
    assert smoke.figures.golden_rows == len(raw)


def test_the_image_tests_itself_without_a_network(packaged: Packaged) -> None:
    name = f"{packaged.package.name}-selftest"
    spec = ContainerSpec(packaged.package.images[0].digest, name, "e2e-test", command=("selftest", "--json"))
    done = run(packaged.engine, spec, 60)
    assert done.state.exit_code == 0, done.logs


def test_the_image_carries_its_own_extra_layer_and_no_other(packaged: Packaged) -> None:
    (image,), extra = packaged.package.images, packaged.trained.extra
    runtime = ensure_runtime("onnx", packaged.engine, packaged.pipeline.settings, (extra,))
    below = packaged.engine.find_image(runtime)
    assert below is not None
    assert image.layers[:-1] == below.layers
    assert image.sbom is not None
    parts = {part["name"] for part in json.loads(read_bytes(packaged.pipeline.store, image.sbom))["components"]}
    assert parts & {"pillow", "tokenizers"} == {{"image": "pillow", "text": "tokenizers"}[extra]}

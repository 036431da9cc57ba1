"""Serving images in a real engine: what is in them, what they answer, and what they refuse to serve."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from serving.package import Refusal
from tasks.contracts import Image, Verdict, digest_of
from tasks.errors import BuildFailed, CorruptObject, GateBlocked, PlatformError
from tasks.image import ContainerSpec, Engine, run, running
from tasks.image.docker_engine import DockerEngine
from tasks.image.runtimes import RUNTIMES, ensure_runtime
from tasks.store import LocalStore
from tests.integration.image.conftest import Case
from tests.integration.tiny import IN, TinyModel, answer_raw, raw_samples

pytestmark = pytest.mark.docker
Cases = Callable[[str], Case]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def container(image: Image, name: str, **changes: Any) -> ContainerSpec:
    return ContainerSpec(
        image=image.digest, name=f"slipway-image-test-{image.digest[7:19]}-{name}", component="image-test", **changes
    )


@dataclasses.dataclass(frozen=True)
class Served:
    """A container that is ready."""

    id: str
    port: int
    engine: Engine

    def ask(self, path: str, content: Any = None) -> tuple[int, Any]:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def infer(self, name: str, raw: Any) -> tuple[int, Any]:
        entry = {"name": "x", "datatype": "UINT8", "shape": list(raw.shape), "data": raw.ravel().tolist()}
        return self.ask(f"/v2/models/{name}/infer", {"inputs": [entry]})

    @property
    def log(self) -> list[dict[str, Any]]:
        return events(self.engine.logs(self.id))


def events(logs: str) -> list[dict[str, Any]]:
    """The server's own lines; TensorFlow writes some of its own that nothing turns off."""
    return [json.loads(line) for line in logs.splitlines() if line.startswith("{")]


def wait_ready(engine: Engine, identity: str) -> Served:
    while (state := engine.state(identity)).running:
        served = Served(identity, engine.host_port(identity, 8000), engine)
        try:
            if served.ask("/v2/health/ready")[0] == 200:
                return served
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"exit code {state.exit_code}: {engine.logs(identity)}")


@pytest.fixture(scope="module")
def served(case: Cases) -> Iterator[Callable[[str], Served]]:
    """`served(runtime)`: the image's container under a quota of one CPU."""
    with ExitStack() as stack:
        started: dict[str, Served] = {}

        def start(runtime: str) -> Served:
            if runtime not in started:
                ready, image = case(runtime), case(runtime).build()
                spec = container(image, "serve", network="bridge", ports=(8000, 8001), cpus=1, memory_bytes=1 << 30)
                started[runtime] = wait_ready(ready.engine, stack.enter_context(running(ready.engine, spec)))
            return started[runtime]

        yield start


def answers(content: Any) -> dict[str, Any]:
    return {entry["name"]: np.array(entry["data"]).reshape(entry["shape"]) for entry in content["outputs"]}


def agrees(content: Any, raw: Any) -> bool:
    found, expected = answers(content), answer_raw(raw)
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


# --- what is built ------------------------------------------------------------------------------------------------


@runtimes
def test_an_image_is_its_runtimes_image_and_one_layer(case: Cases, runtime: str) -> None:
    ready, image = case(runtime), case(runtime).build()
    below = ready.engine.find_image(ensure_runtime(runtime, ready.engine, ready.settings))
    assert below is not None
    assert image.layers[:-1] == below.layers
    assert image.size_bytes == below.size_bytes + image.model_bytes
    assert image.sbom is not None
    assert image.licences is not None
    packaged = sum(file.size_bytes for file in (*ready.export.files.files, image.sbom, image.licences))
    assert packaged < image.model_bytes < packaged + 20_000


@runtimes
def test_labels_say_what_is_inside_and_where_it_came_from(case: Cases, runtime: str) -> None:
    ready, image = case(runtime), case(runtime).build()
    labels = {key: value for key, value in image.labels.items() if not key.startswith("org.opencontainers.image.base")}
    assert labels == {
        "org.opencontainers.image.title": ready.spec.name,
        "org.opencontainers.image.version": labels["org.opencontainers.image.version"],
        "org.opencontainers.image.authors": ready.spec.owner,
        "org.opencontainers.image.description": f"{ready.spec.name} as {ready.export.format}, served by Slipway",
        "io.slipway.component": "image",
        "io.slipway.format": ready.export.format,
        "io.slipway.contract": image.contract_digest,
        "io.slipway.artifact": ready.artifact.files.digest,
        "io.slipway.export": ready.export.files.digest,
        "io.slipway.cold-start-s": f"{ready.spec.serving.cold_start_s:g}",
        "io.slipway.parity": digest_of(ready.parity),
        "io.slipway.sbom": image.sbom.digest if image.sbom else None,
        "io.slipway.source-run": "0123abcd",
        "io.slipway.build": labels["io.slipway.build"],
    }


@runtimes
def test_building_again_changes_nothing(case: Cases, runtime: str) -> None:
    ready = case(runtime)
    first = ready.build()
    mine = f"org.opencontainers.image.title={ready.spec.name}"
    before = {image.id for image in ready.engine.images(mine)}
    assert ready.build() == first
    assert {image.id for image in ready.engine.images(mine)} == before


def test_another_tolerance_is_another_image_on_the_same_runtime(case: Cases) -> None:
    ready = case("onnx")
    strict = ready.spec.model_copy(update={"serving": ready.spec.serving.model_copy(update={"max_batch": 4})})
    first, second = ready.build(), dataclasses.replace(ready, spec=strict).build()
    assert first.reference != second.reference
    assert first.contract_digest != second.contract_digest
    assert first.layers[:-1] == second.layers[:-1]


def test_the_same_content_is_the_same_image_when_it_is_built_anew_from_another_home(
    case: Cases, tmp_path: Path
) -> None:
    ready = case("onnx")
    first = ready.build()
    ready.engine.remove_image(first.reference)
    elsewhere = dataclasses.replace(ready.settings, home=tmp_path)
    assert dataclasses.replace(ready, settings=elsewhere).build() == first


def test_an_engine_that_loads_no_single_layer_builds_an_image_that_runs(
    case: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As engines on containerd's image store are."""
    monkeypatch.setattr(DockerEngine, "_load", lambda *_: False)
    ready = case("onnx")
    spec = ready.spec.model_copy(update={"owner": "another@example.com"})
    image = dataclasses.replace(ready, spec=spec).build()
    done = run(ready.engine, container(image, "built", command=("selftest",)), 120)
    assert done.state.exit_code == 0, done.logs


def test_a_tag_that_names_something_else_is_built_over(case: Cases) -> None:
    ready = case("onnx")
    first = ready.build()
    runtime = ensure_runtime("onnx", ready.engine, ready.settings)
    ready.engine.tag(runtime, first.reference)
    assert ready.build().layers == first.layers


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.FAILED},
        {"verdict": Verdict.INCONCLUSIVE},
        {"golden": None},
        {"export_digest": "sha256:" + "0" * 64},
        {"format": "savedmodel"},
    ],
    ids=["failed", "inconclusive", "no golden samples", "another export", "another format"],
)
def test_no_image_without_parity_of_this_export(case: Cases, changes: dict[str, Any]) -> None:
    ready = case("onnx")
    with pytest.raises(GateBlocked):
        dataclasses.replace(ready, parity=ready.parity.model_copy(update=changes)).build()


def test_an_export_made_with_other_versions_than_the_image_has_is_not_built(case: Cases) -> None:
    ready = case("onnx")
    export = ready.export.model_copy(update={"versions": {"onnxruntime": "1.0.0"}})
    with pytest.raises(BuildFailed, match=r"made with onnxruntime 1\.0\.0"):
        dataclasses.replace(ready, export=export).build()


def test_bytes_that_were_altered_in_the_store_never_enter_an_image(case: Cases, tmp_path: Path) -> None:
    ready = case("onnx")
    store = LocalStore(tmp_path)
    for file in (*ready.export.files.files, ready.parity.golden):
        assert file is not None
        with ready.store.open(file.digest) as stream:
            store.put_stream(stream)
    hexadecimal = ready.export.files.files[0].digest.removeprefix("sha256:")
    path = tmp_path / "objects" / hexadecimal[:2] / hexadecimal[2:]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    spec = ready.spec.model_copy(update={"name": f"{ready.spec.name}-x"})
    with pytest.raises(CorruptObject):
        dataclasses.replace(ready, spec=spec, store=store).build()
    assert ready.engine.images(f"org.opencontainers.image.title={spec.name}") == ()


def test_an_unknown_runtime_is_a_sentence(case: Cases) -> None:
    ready = case("onnx")
    export = ready.export.model_copy(update={"runtime": "caffe"})
    with pytest.raises(Exception, match="there is no runtime 'caffe'; there are onnx, tensorflow, torch"):
        dataclasses.replace(ready, export=export).build()


def test_what_the_engine_cannot_build_is_said_in_its_own_words(engine: Engine) -> None:
    import io

    from tasks.image.context import Context

    context = Context(io.BytesIO())
    context.add_bytes("Dockerfile", b"FROM scratch\nCOPY nothing /\n")
    with pytest.raises(BuildFailed, match="nothing"):
        engine.build(context.finish(), "slipway/image-test:broken", {}, {})
    assert engine.find_image("slipway/image-test:broken") is None


# --- what it answers ----------------------------------------------------------------------------------------------


@runtimes
def test_it_tests_itself_locked_down(case: Cases, runtime: str) -> None:
    """Read-only root, no network, no capabilities, no new privileges: `ContainerSpec` has nothing else."""
    ready = case(runtime)
    spec = container(
        ready.build(), "selftest", command=("selftest", "--json"), user="65532:65532", memory_bytes=1 << 30
    )
    done = run(ready.engine, spec, 120)
    assert (done.state.exit_code, done.timed_out) == (0, False), done.logs
    assert json.loads(done.logs.splitlines()[-1])["answers"] == 24


@runtimes
def test_it_prints_its_contract(case: Cases, runtime: str) -> None:
    import hashlib

    image = case(runtime).build()
    done = run(case(runtime).engine, container(image, "contract", command=("contract",)), 60)
    assert f"sha256:{hashlib.sha256(done.logs.encode()).hexdigest()}" == image.contract_digest


@runtimes
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_it_answers_over_http(case: Cases, served: Callable[[str], Served], runtime: str, rows: int) -> None:
    status, content = served(runtime).infer(case(runtime).spec.name, raw_samples(rows))
    assert status == 200
    assert agrees(content, raw_samples(rows))


@runtimes
def test_it_answers_over_grpc(case: Cases, served: Callable[[str], Served], runtime: str) -> None:
    target, raw = served(runtime), raw_samples(7)
    given = tritonclient.grpc.InferInput("x", list(raw.shape), "UINT8")
    given.set_data_from_numpy(raw)
    address = f"127.0.0.1:{target.engine.host_port(target.id, 8001)}"
    with tritonclient.grpc.InferenceServerClient(address) as client:
        result = client.infer(case(runtime).spec.name, [given])
    assert all(np.array_equal(result.as_numpy(name), array) for name, array in answer_raw(raw).items())


@runtimes
def test_it_answers_many_at_once_as_it_answers_one(case: Cases, served: Callable[[str], Served], runtime: str) -> None:
    target, name = served(runtime), case(runtime).spec.name
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda rows: (target.infer(name, raw_samples(rows)), rows), [1, 64, 3, 9] * 15)
        assert all(status == 200 and agrees(content, raw_samples(rows)) for (status, content), rows in results)


@runtimes
def test_it_refuses_what_does_not_fit_and_lives(case: Cases, served: Callable[[str], Served], runtime: str) -> None:
    target, name = served(runtime), case(runtime).spec.name
    status, content = target.infer(name, np.zeros((1, IN + 1), np.uint8))
    assert (status, content) == (400, {"error": "input 'x': dimension 1 of [batch, 6] must be 6, found 7"})
    assert target.infer(name, np.zeros((65, IN), np.uint8))[0] == 400
    assert target.infer("other", raw_samples(1))[0] == 404
    assert target.infer(name, raw_samples(1))[0] == 200


@runtimes
def test_threads_follow_the_quota_not_the_host(served: Callable[[str], Served], runtime: str) -> None:
    opened = next(line for line in served(runtime).log if line["event"] == "opened")
    assert opened["threads"] == 1


@runtimes
def test_it_ends_in_order_when_it_is_stopped(case: Cases, runtime: str) -> None:
    engine = case(runtime).engine
    spec = container(case(runtime).build(), "stop", network="bridge", ports=(8000,))
    with running(engine, spec) as identity:
        wait_ready(engine, identity)
        engine.stop(identity, 30)
        assert engine.state(identity).exit_code == 0


def test_there_is_no_shell(case: Cases) -> None:
    with pytest.raises(PlatformError, match="could not be started"):
        run(case("onnx").engine, container(case("onnx").build(), "shell", entrypoint=("/bin/sh", "-c", "true")), 10)


def test_it_runs_as_nobody_in_particular(case: Cases) -> None:
    code = "import os; print(os.getuid(), os.getgid(), os.access('/package', os.W_OK))"
    spec = container(case("onnx").build(), "user", entrypoint=("python3.11", "-c", code))
    assert run(case("onnx").engine, spec, 30).logs.strip() == "65532 65532 False"


# --- what it refuses ----------------------------------------------------------------------------------------------


def refusal(case: Case, name: str, file: Path, target: str) -> tuple[int | None, str]:
    """The exit code of a container over whose package `file` is laid, and the sentence that it ends with."""
    done = run(case.engine, container(case.build(), name, mounts={file: f"/package/{target}"}), 60)
    assert not done.timed_out, "it serves"
    return done.state.exit_code, events(done.logs)[-1]["error"]


@runtimes
def test_it_refuses_a_model_file_that_was_tampered_with(
    case: Cases, tiny: Callable[[str], TinyModel], runtime: str, tmp_path: Path
) -> None:
    original = max((path for path in tiny(runtime).folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    tampered = tmp_path / "tampered"
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    tampered.write_bytes(content)
    tampered.chmod(0o644)
    target = f"model/{original.relative_to(tiny(runtime).folder).as_posix()}"
    code, sentence = refusal(case(runtime), "tampered", tampered, target)
    assert code == Refusal.FILES
    assert sentence.startswith(f"{target} is not the file of the contract")


@runtimes
def test_it_refuses_a_contract_proven_with_other_versions(case: Cases, runtime: str, tmp_path: Path) -> None:
    ready = case(runtime)
    contract = json.loads(run(ready.engine, container(ready.build(), "read", command=("contract",)), 60).logs)
    decisive = RUNTIMES[runtime].decisive[0]
    contract["runtime_versions"][decisive] = "0.0.1"
    path = tmp_path / "contract.json"
    path.write_text(json.dumps(contract))
    path.chmod(0o644)
    code, sentence = refusal(ready, "skewed", path, "contract.json")
    assert code == Refusal.VERSIONS
    assert f"{decisive} {RUNTIMES[runtime].versions[decisive]} instead of 0.0.1" in sentence

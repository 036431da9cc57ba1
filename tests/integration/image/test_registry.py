"""To a real registry and back by digest: Debian's docker-registry, on loopback."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.contracts import Image
from tasks.errors import BadInput, CorruptObject, PlatformError, RegistryFailed
from tasks.image import ContainerSpec, Engine, run
from tasks.image.registry import pull, push, pushed_images
from tasks.store import LocalStore
from tests.integration.image.conftest import Case

pytestmark = pytest.mark.docker
Cases = Callable[[str], Case]

CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
#: bcrypt, as the registry wants it; nobody knows the password, nor has to.
HTPASSWD = "someone:$2y$05$abcdefghijklmnopqrstuuu1rBGPSCFFk0EFGqzxHXBqo4tAlXYyO\n"


@contextmanager
def serving(folder: Path, auth: str = "") -> Iterator[str]:
    """A registry's host and port, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.yml").write_text(CONFIGURATION.format(folder=folder, port=port, auth=auth))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def repository(registry: str, engine: Engine) -> Iterator[str]:
    """A repository that no other run has; what it leaves in the engine is removed."""
    name = f"{registry}/tests/{uuid.uuid4().hex[:8]}"
    yield name
    command = ["docker", "images", "--digests", "--format", "{{.Tag}} {{.Digest}}", name]
    for line in subprocess.check_output(command, text=True).splitlines():
        tag, digest = line.split()
        for reference in (f"{name}:{tag}", f"{name}@{digest}"):
            if "<none>" not in reference:
                engine.remove_image(reference)


def test_what_was_pushed_comes_back_by_its_digest_and_tests_itself(case: Cases, repository: str) -> None:
    ready = case("onnx")
    image = ready.build()
    pushed = push(image, repository, ready.engine, ready.store)
    assert pushed.reference == f"{repository}@{pushed.manifest}"
    assert pushed in pushed_images(ready.store)
    for reference in (image.reference, f"{repository}:{pushed.tag}"):
        ready.engine.remove_image(reference)
    assert ready.engine.find_image(image.digest) is None
    info, known = pull(pushed.reference, [image], ready.engine, ready.store)
    assert (info.id, known) == (image.digest, image)
    name = f"slipway-image-test-{uuid.uuid4().hex[:8]}"
    spec = ContainerSpec(image=pushed.reference, name=name, component="image-test", command=("selftest",))
    done = run(ready.engine, spec, 60)
    assert done.state.exit_code == 0, done.logs

    claimed = pushed.model_copy(update={"layers": pushed.layers[:-1]})
    elsewhere = dataclasses.replace(ready, store=LocalStore(Path(ready.store.uri).with_name("elsewhere")))
    _note(elsewhere.store, claimed)
    with pytest.raises(CorruptObject, match="other layers than were pushed"):
        pull(pushed.reference, [], ready.engine, elsewhere.store)


def _note(store: LocalStore, pushed: object) -> None:
    from tasks.contracts import digest_of
    from tasks.image.registry import Pushed

    assert isinstance(pushed, Pushed)
    store.put_result("pushed", digest_of([pushed.repository, pushed.manifest]), pushed.model_dump_json())


def test_a_digest_that_is_not_there_is_said_so(case: Cases, registry: str) -> None:
    ready = case("onnx")
    with pytest.raises(BadInput, match=r"has no such image in .*: check the digest"):
        pull(f"{registry}/tests/none@sha256:{'0' * 64}", [], ready.engine, ready.store)


def test_a_registry_that_is_not_there_is_said_so(case: Cases) -> None:
    ready = case("onnx")
    with pytest.raises(RegistryFailed, match="the registry localhost:9 does not answer as one"):
        push(ready.build(), "localhost:9/digits", ready.engine, ready.store)
    assert ready.engine.find_image(f"localhost:9/digits:{ready.build().reference.rpartition(':')[2]}") is None
    with pytest.raises(RegistryFailed, match="the registry localhost:9 does not answer as one"):
        pull(f"localhost:9/digits@sha256:{'0' * 64}", [], ready.engine, ready.store)


def test_a_registry_that_lets_nobody_in_is_said_so(case: Cases, tmp_path: Path) -> None:
    ready = case("onnx")
    image = ready.build()
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with serving(tmp_path, f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}") as host:
        with pytest.raises(RegistryFailed, match=f"does not let this user into {host}/digits: `docker login {host}`"):
            push(image, f"{host}/digits", ready.engine, ready.store)
        with pytest.raises(RegistryFailed, match="does not let this user into"):
            pull(f"{host}/digits@sha256:{'0' * 64}", [], ready.engine, ready.store)


def test_an_image_that_is_gone_is_not_pushed(case: Cases) -> None:
    ready = case("onnx")
    gone: Image = ready.build().model_copy(update={"digest": f"sha256:{'0' * 64}"})
    with pytest.raises(PlatformError, match="is not in the engine"):
        push(gone, "localhost:9/digits", ready.engine, ready.store)


@pytest.mark.parametrize("repository", ["digits", "someone/digits", "localhost:9/digits:tag", "localhost:9", "a b/c"])
def test_a_repository_that_is_none_is_refused_before_anything_is_sent(case: Cases, repository: str) -> None:
    ready = case("onnx")
    with pytest.raises(BadInput, match="expected REGISTRY/REPOSITORY without a tag"):
        push(ready.build(), repository, ready.engine, ready.store)


def test_a_tag_is_not_pulled(case: Cases) -> None:
    ready = case("onnx")
    with pytest.raises(BadInput, match="expected REPOSITORY@sha256"):
        pull("localhost:9/digits:latest", [], ready.engine, ready.store)

"""The compose file that follows from evidence really starts the image, within the memory that smoke saw it need."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from serving.preprocess import raw_signature
from tasks.deployment import Asked, Scale, write_manifests
from tasks.load.client import Address, Broken, Connection, Unanswered, get
from tasks.smoke.golden import read_golden
from tasks.smoke.load import ask
from tasks.spec import SmokeSpec
from tests import samples
from tests.integration.smoke.bench import Bench

pytestmark = pytest.mark.docker


def test_a_written_compose_file_starts_the_image_and_it_answers_as_the_source_model_did(
    bench: Bench, tmp_path: Path
) -> None:
    kind = bench.kind
    spec = bench.spec.model_copy(update={"formats": ("onnx",), "smoke": SmokeSpec(instance_types=(kind.name,))})
    package = samples.package(
        bench.store, spec, parity=[bench.parity], images=[bench.good], smoke=[bench.smoke(bench.good)]
    )
    out = tmp_path / "out"
    write_manifests(package, bench.good, Asked(out, None, Scale()), {kind.name: kind}, {}, "an envelope")

    with socket.socket() as http, socket.socket() as grpc:
        http.bind(("127.0.0.1", 0))
        grpc.bind(("127.0.0.1", 0))
        ports = {"SLIPWAY_HTTP_PORT": str(http.getsockname()[1]), "SLIPWAY_GRPC_PORT": str(grpc.getsockname()[1])}
    # Debian's docker-compose is a program of the system's Python.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ports
    command = [
        "docker-compose",
        "--file",
        str(out / "compose.yaml"),
        "--project-name",
        f"compose-{uuid.uuid4().hex[:8]}",
    ]
    subprocess.run([*command, "config", "--quiet"], env=environment, check=True)
    try:
        subprocess.run([*command, "up", "--detach"], env=environment, check=True, capture_output=True)
        address = Address("127.0.0.1", int(ports["SLIPWAY_HTTP_PORT"]))
        _until_ready(address)
        golden = read_golden(bench.parity, raw_signature(spec.signature, spec.preprocess), bench.store, tmp_path)
        answers, _ = ask(address, f"/v2/models/{spec.name}/infer", golden, [golden.sample(0, 1)], timeout_s=20)
        assert (answers.asked, answers.right) == (1, 1)
        # Compose's own first look comes ten seconds later: what it will ask is asked now.
        service = YAML(typ="safe").load(out / "compose.yaml")["services"][spec.name]
        assert service["healthcheck"]["test"][0] == "CMD"
        look = [*command, "exec", "-T", spec.name, *service["healthcheck"]["test"][1:]]
        subprocess.run(look, env=environment, check=True, stdin=subprocess.DEVNULL)
    finally:
        subprocess.run([*command, "down", "--timeout", "1"], env=environment, check=True, capture_output=True)


def _until_ready(address: Address) -> None:
    for _ in range(600):
        with suppress(Unanswered, Broken), Connection(address, 1.0) as connection:
            if connection.request(get("/v2/health/ready")).status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the container did not become ready")

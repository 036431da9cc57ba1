"""What is in a serving image, looked at from inside, and what its SBOM says of it: one container, asked everything."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tasks.contracts import Image
from tasks.image import ContainerSpec, run
from tasks.image.runtimes import ensure_runtime
from tasks.store import read_bytes
from tests.integration.image.conftest import Case

pytestmark = pytest.mark.docker
Cases = Callable[[str], Case]

LOOK = """
import hashlib, importlib, json, os, pkgutil, socket, stat, sys
found = {"programs": [], "names": [], "setuid": [], "writable": [], "sources": [], "refused": 0}
for folder, _, names in os.walk("/"):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            continue
        mode = os.stat(path).st_mode
        found["names"].append(name)
        if mode & (stat.S_ISUID | stat.S_ISGID):
            found["setuid"].append(path)
        if mode & (stat.S_IWGRP | stat.S_IWOTH) or os.stat(path).st_uid == os.getuid():
            found["writable"].append(path)
        if name.endswith(".py") and not path.startswith("/opt/serving/"):
            found["sources"].append(path)
        with open(path, "rb") as file:
            if file.read(4) == b"\\x7fELF" and os.access(path, os.X_OK) and ".so" not in name:
                found["programs"].append(path)
for attempt in (lambda: open("/package/x", "w"), lambda: open("/home/nonroot/x", "w"), lambda: os.mkdir("/x"),
                lambda: socket.create_connection(("192.0.2.1", 80), 2)):
    try: attempt()
    except OSError: found["refused"] += 1
import serving
modules = [each.name for each in pkgutil.walk_packages(serving.__path__, "serving.")]
found["modules"] = [each for each in modules if not each.startswith(("serving.runners.t", "serving.__main__"))]
found["missing"] = {}
for each in found["modules"]:
    try: importlib.import_module(each)
    except ImportError as error: found["missing"][each] = str(error)
found["user"] = [os.getuid(), os.getgid()]
found["debian"] = sorted(os.listdir("/var/lib/dpkg/status.d"))
found["python"] = sorted(n.removesuffix(".dist-info") for n in os.listdir("/opt/runtime") if n.endswith(".dist-info"))
for name in ("sbom.json", "licences.txt"):
    content = open("/package/" + name, "rb").read()
    found[name] = "sha256:" + hashlib.sha256(content).hexdigest()
bom = json.load(open("/package/sbom.json"))
found["texts"] = [p["value"] for c in bom["components"] for p in c.get("properties", ())]
found["no text"] = [path for path in found["texts"] if not os.path.getsize(path)]
found["common"] = len(os.listdir("/usr/share/common-licenses"))
print(json.dumps({**found, "names": sorted(set(found["names"]))}))
"""


@pytest.fixture(scope="module")
def image(case: Cases) -> Image:
    return case("onnx").build()


@pytest.fixture(scope="module")
def inside(case: Cases, image: Image) -> dict[str, Any]:
    """What a process of the image sees, as locked down as it is meant to run."""
    name = f"slipway-image-test-{uuid.uuid4().hex[:8]}"
    spec = ContainerSpec(image=image.digest, name=name, component="image-test", entrypoint=("python3.11", "-c", LOOK))
    done = run(case("onnx").engine, spec, 120)
    assert done.state.exit_code == 0, done.logs
    found: dict[str, Any] = json.loads(done.logs)
    return found


def test_the_interpreter_is_the_only_program(inside: dict[str, Any]) -> None:
    assert inside["programs"] == ["/usr/bin/python3.11"]


def test_there_is_no_compiler_package_manager_or_shell(inside: dict[str, Any]) -> None:
    unwanted = {"sh", "bash", "dash", "busybox", "gcc", "g++", "cc", "ld", "as", "make", "apt", "apt-get", "dpkg"}
    unwanted |= {"rpm", "pip", "pip3", "uv", "ensurepip", "curl", "wget", "perl", "tar", "su", "sudo", "mount"}
    assert unwanted & set(inside["names"]) == set()


def test_nothing_runs_as_its_owner_and_nothing_is_its_users(inside: dict[str, Any]) -> None:
    assert inside["user"] == [65532, 65532]
    assert inside["setuid"] == []
    assert inside["writable"] == []


def test_it_can_neither_write_nor_reach_anything(inside: dict[str, Any]) -> None:
    assert inside["refused"] == 4


def test_every_module_of_the_server_finds_what_it_imports(inside: dict[str, Any]) -> None:
    assert "serving.runners.onnx" in inside["modules"]
    assert inside["missing"] == {}


def test_libraries_come_without_their_sources(inside: dict[str, Any]) -> None:
    assert inside["sources"] == []


# --- what is said of it -------------------------------------------------------------------------------------------


def test_its_sbom_and_licences_are_those_of_the_contract(inside: dict[str, Any], image: Image) -> None:
    assert image.sbom is not None
    assert image.licences is not None
    assert (inside["sbom.json"], inside["licences.txt"]) == (image.sbom.digest, image.licences.digest)
    assert image.labels["io.slipway.sbom"] == image.sbom.digest


def test_the_sbom_holds_and_names_all_that_is_installed(case: Cases, inside: dict[str, Any], image: Image) -> None:
    assert image.sbom is not None
    text = read_bytes(case("onnx").store, image.sbom).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = json.loads(text)["components"]
    debian = sorted(each["name"] for each in parts if each.get("purl", "").startswith("pkg:deb/"))
    python = sorted(
        f"{each['name'].replace('-', '_')}-{each['version']}"
        for each in parts
        if each.get("purl", "").startswith("pkg:pypi/")
    )
    assert debian == inside["debian"]
    assert python == inside["python"]
    assert all(each["hashes"] for each in parts if each["name"] in debian)


def test_licence_texts_are_where_it_says(inside: dict[str, Any]) -> None:
    assert len(inside["texts"]) > 20
    assert inside["no text"] == []
    assert inside["common"] > 10


def test_an_image_with_extras_decodes_pictures_and_tokenizes(case: Cases) -> None:
    code = """
import io, numpy as np, PIL.Image as I
from tokenizers import Tokenizer, models, pre_tokenizers
for kind in ("PNG", "JPEG"):
    stream = io.BytesIO()
    I.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(stream, kind)
    picture = I.open(io.BytesIO(stream.getvalue())).convert("RGB").resize((4, 4), I.Resampling.BICUBIC)
    print(kind, np.asarray(picture)[0, 0].tolist())
words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
print(Tokenizer.from_str(words.to_str()).encode("b a c").ids)
"""
    ready = case("onnx")
    image = ensure_runtime("onnx", ready.engine, ready.settings, ("text", "image"))
    name = f"slipway-image-test-{uuid.uuid4().hex[:8]}"
    spec = ContainerSpec(image=image, name=name, component="image-test", entrypoint=("python3.11", "-c", code))
    done = run(ready.engine, spec, 60)
    assert done.logs.splitlines() == ["PNG [200, 200, 200]", "JPEG [200, 200, 200]", "[1, 0, 2]"], done.logs

"""What is said of an image's contents: complete, valid CycloneDX, and the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from serving.contract import PackagedFile, ServingContract
from tasks.image.inventory import Installed, Inventory
from tasks.image.libraries import locked_hashes, locked_versions
from tasks.image.runtimes import EXTRAS, RUNTIMES
from tasks.image.sbom import bom, licences
from tests import samples

SCRIPT = Path(__file__).parents[3] / "docker" / "runtimes" / "inventory.py"
MACHINE_READABLE = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nLicense: Zlib\n"
PROSE = "It may be used under the GPL, see `/usr/share/common-licenses/GPL-3'.\n"
SHA = "ab" * 32


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image's root: two Debian packages, of which one has the other's documentation, and three distributions."""
    for name, version in (("zlib1g", "1:1.2"), ("libgcc-s1", "12.2"), ("gcc-12-base", "12.2")):
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDescription: x\n more\nSHA256: {SHA}\n"
        write(tmp_path / "var/lib/dpkg/status.d" / name, control)
    write(tmp_path / "usr/share/doc/zlib1g/copyright", MACHINE_READABLE)
    write(tmp_path / "usr/share/doc/gcc-12-base/copyright", PROSE)
    (tmp_path / "usr/share/doc/libgcc-s1").symlink_to("gcc-12-base")
    metadata = {
        "one-1.0": "Name: one\nVersion: 1.0\nLicense-Expression: MPL-2.0 AND (Apache-2.0 OR MIT)\n",
        "two_x-2.0": "Name: two-x\nVersion: 2.0\nLicense: All of it\n  and\n  more\n"
        "Classifier: License :: OSI Approved :: MIT License\n",
        "three-3.0": "Name: three\nVersion: 3.0\n",
    }
    for name, text in metadata.items():
        write(tmp_path / "opt/runtime" / f"{name}.dist-info" / "METADATA", text)
    write(tmp_path / "opt/runtime/one-1.0.dist-info/licenses/LICENSE-MIT", "MIT")
    write(tmp_path / "opt/runtime/two_x/ThirdPartyNotices.txt", "others")
    return tmp_path


@pytest.fixture
def inventory(root: Path) -> Inventory:
    done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, check=True)
    return Inventory(packages=tuple(Installed(**json.loads(line)) for line in done.stdout.splitlines()))


@pytest.fixture
def contract() -> ServingContract:
    return ServingContract(
        name="digits",
        version="0123456789ab",
        format="onnx",
        runtime="onnx",
        model="model/model.onnx",
        files=(PackagedFile("golden.npz", f"sha256:{SHA}", 3), PackagedFile("model/model.onnx", f"sha256:{SHA}", 5)),
        signature=samples.signature(),
        preprocess=(),
        tolerances={},
        golden="golden.npz",
        max_batch=8,
        runtime_versions={},
    )


def components(document: bytes) -> dict[str, Any]:
    return {each["bom-ref"]: each for each in json.loads(document)["components"]}


def test_every_package_is_found_with_its_licences_and_their_texts(inventory: Inventory) -> None:
    found = {each.name: each for each in inventory.packages}
    assert found["zlib1g"] == Installed(
        kind="debian",
        name="zlib1g",
        version="1:1.2",
        architecture="amd64",
        licences=("Zlib",),
        texts=("/usr/share/doc/zlib1g/copyright",),
        sha256=SHA,
    )
    assert (found["libgcc-s1"].licences, found["libgcc-s1"].texts) == (
        ("GPL-3",),
        ("/usr/share/doc/libgcc-s1/copyright",),
    )
    assert found["one"].licences == ("MPL-2.0 AND (Apache-2.0 OR MIT)",)
    assert found["one"].texts == ("/opt/runtime/one-1.0.dist-info/licenses/LICENSE-MIT",)
    assert (found["two-x"].licences, found["two-x"].texts) == (
        ("MIT License",),
        ("/opt/runtime/two_x/ThirdPartyNotices.txt",),
    )
    assert found["three"].licences == ()


def test_the_document_holds_by_cyclonedx_own_schema(contract: ServingContract, inventory: Inventory) -> None:
    document = bom(contract, inventory, {"one": (SHA,), "two-x": (SHA, "cd" * 32)})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode()) is None
    assert json.loads(document)["specVersion"] == "1.6"


def test_it_names_what_scanners_look_for(contract: ServingContract, inventory: Inventory) -> None:
    found = components(bom(contract, inventory, {"one": (SHA,), "two-x": (SHA, "cd" * 32)}))
    zlib = found["pkg:deb/debian/zlib1g@1:1.2?arch=amd64&distro=debian-12"]
    assert zlib["licenses"] == [{"license": {"id": "Zlib"}}]
    assert zlib["hashes"] == [{"alg": "SHA-256", "content": SHA}]
    assert found["pkg:pypi/one@1.0"]["licenses"] == [{"expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}]
    assert found["pkg:pypi/one@1.0"]["hashes"] == [{"alg": "SHA-256", "content": SHA}]
    assert "hashes" not in found["pkg:pypi/two-x@2.0"]  # either of two wheels
    assert [each["name"] for each in found["model"]["components"]] == [
        "/package/golden.npz",
        "/package/model/model.onnx",
    ]


def test_the_same_contents_give_the_same_bytes(contract: ServingContract, inventory: Inventory) -> None:
    assert bom(contract, inventory, {}) == bom(contract, inventory, {})


def test_people_can_read_the_licences(contract: ServingContract, inventory: Inventory) -> None:
    text = licences(contract, inventory).decode()
    assert "zlib1g 1:1.2 (Debian)\n    Zlib\n    /usr/share/doc/zlib1g/copyright\n" in text
    assert "three 3.0 (Python)\n    see its text\n" in text


@pytest.mark.parametrize("recipe", [*RUNTIMES.values(), *EXTRAS.values()], ids=[*RUNTIMES, *EXTRAS])
def test_a_lock_gives_the_digests_of_each_distribution(recipe: Any) -> None:
    hashes = locked_hashes(recipe.lock)
    assert hashes.keys() == locked_versions(recipe.lock).keys()
    assert all(len(each) == 64 for found in hashes.values() for each in found)
    assert all(hashes.values())

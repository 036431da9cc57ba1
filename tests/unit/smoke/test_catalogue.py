"""The catalogue of instance types: what ships holds, and what a user adds is checked with its entry named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import digest_of
from tasks.errors import BadInput
from tasks.smoke.catalogue import CATALOGUE_FILE, LEVELS, instance_type, load_catalogue, read_catalogue

OWN = """
sources:
  lab: {title: Inventory, url: "https://lab.example.com/inventory"}
types:
  lab-box: {provider: lab, vcpus: 2, memory_gib: 1.5, cpus: [haswell], sources: [lab]}
"""


def own_file(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(BadInput) as caught:
        read_catalogue(CATALOGUE_FILE, own_file(folder, text))
    return str(caught.value)


def test_every_shipped_type_has_a_level_and_sources() -> None:
    catalogue = load_catalogue()
    assert len(catalogue) >= 12
    for kind in catalogue.values():
        assert kind.level in LEVELS
        assert kind.sources
        assert all(cpu.sources for cpu in kind.cpus)


def test_figures_are_in_bytes() -> None:
    assert load_catalogue()["c4.large"].memory_bytes == 3.75 * 2**30


def test_a_type_is_only_as_good_as_its_weakest_cpu() -> None:
    mixed = load_catalogue()["c5.large"]
    assert {cpu.name for cpu in mixed.cpus} == {"skylake-sp", "cascade-lake"}
    assert "avx512f" in mixed.features
    assert "avx512_vnni" not in mixed.features
    assert load_catalogue()["Standard_D2s_v3"].level == "x86-64-v3"


def test_no_emulation_is_promised_for_avx512() -> None:
    for kind in load_catalogue().values():
        assert all(cpu.emulation is None for cpu in kind.cpus if cpu.level == "x86-64-v4")


def test_a_type_has_one_identity_in_every_process() -> None:
    features = load_catalogue()["c7i.large"].cpus[0].features
    assert list(features) == sorted(features)
    assert digest_of(load_catalogue()["c7i.large"]) == digest_of(load_catalogue()["c7i.large"])


def test_users_add_types_that_use_slipways_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_INSTANCE_TYPES", str(own_file(tmp_path, OWN)))
    assert instance_type("lab-box").level == "x86-64-v3"
    assert "c6i.large" in load_catalogue()


def test_an_unknown_type_is_bad_input_with_the_nearest_names() -> None:
    with pytest.raises(BadInput, match=r"did you mean c6i\.large"):
        instance_type("c6i.larg")


def test_a_missing_own_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_INSTANCE_TYPES", str(tmp_path / "none.yaml"))
    with pytest.raises(BadInput, match="cannot be read"):
        load_catalogue()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{provider: lab, vcpus: 0, memory_gib: 1, cpus: [haswell], sources: [psabi]}", "types.box.vcpus"),
        ("{provider: lab, vcpus: 1, memory_gib: -1, cpus: [haswell], sources: [psabi]}", "types.box.memory_gib"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswel], sources: [psabi]}", "did you mean haswell?"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [], sources: [psabi]}", "types.box.cpus"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], sources: []}", "types.box.sources"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell], sources: [nowhere]}", "no source 'nowhere'"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpus: [haswell, graviton3], sources: [psabi]}", "several archi"),
        ("{provider: lab, vcpus: 1, memory_gib: 1, cpu: haswell, sources: [psabi]}", "types.box.cpu"),
        ("text", "types.box"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    message = problems(tmp_path, f"types:\n  box: {entry}\n")
    assert expected in message
    assert "own.yaml" in message


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{vendor: intel, architecture: amd64, level: x86-64-v9, sources: [psabi]}", "is none of"),
        ("{vendor: intel, architecture: arm64, level: x86-64-v3, sources: [psabi]}", "not one of arm64"),
        ("{vendor: via, architecture: amd64, level: x86-64-v3, sources: [psabi]}", "cpus.mine.vendor"),
    ],
)
def test_a_wrong_cpu_is_named(tmp_path: Path, entry: str, expected: str) -> None:
    message = problems(tmp_path, f"cpus:\n  mine: {entry}\n")
    assert "cpus.mine" in message
    assert expected in message


def test_shipped_names_are_not_replaced_silently(tmp_path: Path) -> None:
    text = "types:\n  c4.large: {provider: lab, vcpus: 64, memory_gib: 512, cpus: [zen4], sources: [psabi]}\n"
    assert "types.c4.large: the name is taken" in problems(tmp_path, text)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    message = problems(tmp_path, "types:\n  one: {}\n  two: {}\n")
    assert "types.one.vcpus" in message
    assert "types.two.vcpus" in message


@pytest.mark.parametrize("text", ["- a list", "{", "", "kinds: {}"])
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    assert "own.yaml" in problems(tmp_path, text)

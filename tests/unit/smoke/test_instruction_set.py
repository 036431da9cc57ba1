"""What a host can stand for: exactly its own instruction set, what an emulator executes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.smoke.catalogue import LEVELS, load_catalogue
from tasks.smoke.host import VOCABULARY, Host, this_machine
from tasks.smoke.instruction_set import plan, times_count
from tasks.smoke.masking import can_hide
from tasks.smoke.observation import Proof

TYPES = load_catalogue()
ZEN4 = frozenset(TYPES["c7a.large"].cpus[0].features) | {"fpu", "sha_ni"}
HASWELL = frozenset(TYPES["c4.large"].cpus[0].features)
HOST = Host(vcpus=2, memory_bytes=2**34, architecture="amd64", features=ZEN4, emulator=Path("/usr/bin/qemu"))


def proofs(name: str, host: Host = HOST) -> dict[str, Proof]:
    return {tried.cpu: tried.proof for tried in plan(TYPES[name], host)}


def test_a_host_with_exactly_the_features_proves_them() -> None:
    assert proofs("c7a.large") == {"zen4": Proof.NATIVE}
    assert proofs("c4.large", replace(HOST, features=HASWELL)) == {"haswell": Proof.NATIVE}


def test_older_processors_are_emulated() -> None:
    assert proofs("c4.large") == {"haswell": Proof.EMULATED}
    assert proofs("c3.large") == {"ivy-bridge": Proof.EMULATED}


def test_avx512_of_another_kind_is_not_proven_in_either_direction() -> None:
    (older,) = plan(TYPES["c6i.large"], HOST)
    assert (older.proof, older.surplus, older.missing) == (Proof.UNPROVEN, ("avx512_bf16",), ())
    (newer,) = plan(TYPES["c7i.large"], HOST)
    assert newer.proof is Proof.UNPROVEN
    assert "amx_tile" in newer.missing
    assert "amx_tile" in newer.reason


ICE_LAKE = TYPES["c6i.large"].cpus[0]
INTEL = replace(
    HOST,
    features=frozenset({*ICE_LAKE.features, "avx512_bf16", "amx_tile", "cpuid_fault"}),
    vendor="intel",
    cpumask=Path("/usr/bin/cpumask"),
)


def test_a_host_that_has_more_hides_it() -> None:
    (older,) = plan(TYPES["c6i.large"], INTEL)
    assert (older.proof, older.surplus) == (Proof.MASKED, ("amx_tile", "avx512_bf16"))
    assert proofs("c5.large", INTEL) == {"skylake-sp": Proof.MASKED, "cascade-lake": Proof.MASKED}


def test_what_can_be_emulated_is_not_hidden() -> None:
    """An emulator stops at an instruction that is used without asking; behind a mask it is executed."""
    assert proofs("c4.large", INTEL) == {"haswell": Proof.EMULATED}
    assert proofs("c4.large", replace(INTEL, emulator=None)) == {"haswell": Proof.UNPROVEN}


@pytest.mark.parametrize(
    ("host", "why"),
    [
        (replace(INTEL, vendor="amd"), "another maker"),
        (replace(INTEL, features=INTEL.features - {"cpuid_fault"}), "no cpuid_fault in /proc/cpuinfo"),
        (replace(INTEL, cpumask=None), "install Debian's g++"),
        (replace(INTEL, features=INTEL.features - {"gfni"}), "this host has no gfni"),
    ],
    ids=["another maker", "CPUID does not trap", "no tool", "it has less too"],
)
def test_a_host_that_cannot_hide_what_it_has_more_says_why(host: Host, why: str) -> None:
    (tried,) = plan(TYPES["c6i.large"], host)
    assert tried.proof is Proof.UNPROVEN
    assert why in tried.reason


def test_everything_that_processors_are_told_apart_by_above_the_levels_can_be_hidden() -> None:
    assert can_hide(VOCABULARY.difference(*LEVELS.values()))
    assert not can_hide({"avx2"})


def test_without_the_emulator_nothing_older_is_proven() -> None:
    (tried,) = plan(TYPES["c4.large"], replace(HOST, emulator=None))
    assert tried.proof is Proof.UNPROVEN
    assert "not installed" in tried.reason


def test_a_host_that_says_nothing_proves_nothing_natively() -> None:
    assert proofs("c7a.large", replace(HOST, features=frozenset())) == {"zen4": Proof.UNPROVEN}


def test_each_distinct_instruction_set_is_tried_once() -> None:
    assert proofs("m4.large") == {"haswell": Proof.EMULATED}  # Broadwell's is the same
    assert proofs("n1-standard-1") == {
        "sandy-bridge": Proof.EMULATED,
        "ivy-bridge": Proof.EMULATED,
        "haswell": Proof.EMULATED,
        "skylake-sp": Proof.UNPROVEN,
    }


def test_times_count_for_this_generation_and_its_like_and_not_for_older_ones() -> None:
    assert times_count(TYPES["c7a.large"], HOST)
    assert times_count(TYPES["c6i.large"], HOST)
    assert times_count(TYPES["c4.large"], replace(HOST, features=HASWELL))
    assert not times_count(TYPES["c4.large"], HOST)
    assert not times_count(TYPES["c4.large"], replace(HOST, emulator=None))


def test_this_machine_is_proven_natively_on_itself() -> None:
    here, host = this_machine(), Host.this()
    assert {tried.proof for tried in plan(here, host)} == {Proof.NATIVE}
    assert (here.vcpus, here.memory_bytes, here.architecture) == (host.vcpus, host.memory_bytes, host.architecture)
    assert set(here.cpus[0].features) == VOCABULARY & host.features
    assert LEVELS[here.level] <= host.features


def test_this_host_is_read() -> None:
    host = Host.this()
    assert host.vcpus >= 1
    assert host.memory_bytes > 2**28
    assert host.architecture in {"amd64", "arm64"}


def test_a_host_is_told_from_another_by_what_it_can_prove() -> None:
    others = (
        replace(HOST, vcpus=64),
        replace(HOST, memory_bytes=2**40),
        replace(HOST, features=HASWELL),
        replace(HOST, emulator=None),
        replace(HOST, cpumask=Path("/usr/bin/cpumask")),
        replace(HOST, vendor="amd"),
    )
    assert len({host.identity for host in (HOST, *others)}) == 1 + len(others)
    assert replace(HOST, features=ZEN4 | {"some_new_flag"}, emulator=Path("/elsewhere")).identity == HOST.identity

"""What a host can stand for: exactly its own instruction set, what an emulator executes, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.smoke.catalogue import load_catalogue
from tasks.smoke.instruction_set import Host, plan, times_count
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
    )
    assert len({host.identity for host in (HOST, *others)}) == 5
    assert replace(HOST, features=ZEN4 | {"some_new_flag"}, emulator=Path("/elsewhere")).identity == HOST.identity

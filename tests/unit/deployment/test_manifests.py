"""Manifests name what was proven and nothing else, hold against the schemas, and are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from serving.__main__ import _GRACE_S
from tasks.contracts import Capacity, Image, Package, Verdict
from tasks.deployment import Asked, Manifests, Scale, chosen, in_registry, write_manifests
from tasks.errors import BadInput, GateBlocked, PlatformError
from tasks.image.registry import Pushed
from tasks.smoke import load_catalogue
from tasks.smoke.host import THIS_MACHINE
from tasks.spec import SmokeSpec
from tasks.store import LocalStore
from tests import samples

NEW, OLD = samples.TYPES
REFERENCE = f"registry.example.com/models/digits@sha256:{'a' * 64}"
MIB = 2**20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def _package(store: LocalStore, **cells: dict[str, Any]) -> Package:
    """A package as onnx alone; `cells` are changes of its smoke report on `new` and `old`."""
    changes = {NEW: cells.get("new", {}), OLD: cells.get("old", {})}
    smoke = [samples.smoke_report("onnx", kind, **changed) for kind, changed in changes.items()]
    return samples.package(store, samples.spec(formats=("onnx",)), smoke=smoke)


def _write(package: Package, out: Path, **changes: Any) -> Manifests:
    asked = Asked(**{"out": out, "reference": REFERENCE, "scale": Scale(), **changes})
    return write_manifests(package, package.images[0], asked, load_catalogue(), {}, "an envelope")


def _read(folder: Path, name: str) -> Any:
    return YAML(typ="safe").load(folder / name)


def _pod(folder: Path) -> Any:
    return _read(folder, "kubernetes/deployment.yaml")["spec"]["template"]["spec"]


def _required(folder: Path) -> dict[str, list[str]]:
    rule = _pod(folder)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = rule["nodeSelectorTerms"]
    return {each["key"]: each["values"] for each in term["matchExpressions"]}


def test_pods_may_go_to_every_proven_type_and_to_its_architecture(store: LocalStore, tmp_path: Path) -> None:
    _write(_package(store), tmp_path / "out")
    assert _required(tmp_path / "out") == {
        "node.kubernetes.io/instance-type": [OLD, NEW],
        "kubernetes.io/arch": ["amd64"],
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"verdict": Verdict.FAILED, "findings": (samples.finding("SMOKE_OUT_OF_MEMORY"),)},
        {
            "verdict": Verdict.INCONCLUSIVE,
            "findings": (samples.finding("SMOKE_NO_FIGURE", verdict=Verdict.INCONCLUSIVE),),
        },
        {"findings": (samples.finding("SMOKE_INSTRUCTION_SET_UNPROVEN", verdict=Verdict.PASSED),)},
    ],
    ids=["failed", "inconclusive", "a processor not tried"],
)
def test_a_type_that_is_not_proven_appears_nowhere_in_what_is_applied(
    store: LocalStore, tmp_path: Path, changed: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    written = _write(_package(store, new=changed), out)
    applied = [name for name in written.files if name.endswith(".yaml")]
    assert len(applied) == 5
    assert not [name for name in applied if NEW in (out / name).read_text()]
    assert _required(out)["node.kubernetes.io/instance-type"] == [OLD]


def test_where_nothing_is_proven_one_sentence_says_so_and_nothing_is_written(store: LocalStore, tmp_path: Path) -> None:
    failed = {"verdict": Verdict.FAILED, "findings": (samples.finding("SMOKE_LATENCY"),)}
    package = _package(store, new=failed, old=failed)
    with pytest.raises(GateBlocked, match=f"proven on no instance type.*{NEW} is failed .SMOKE_LATENCY") as refused:
        _write(package, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(GateBlocked, match="nothing to deploy"):
        chosen([package], "digits", None, {})


def _on_this_machine(store: LocalStore, *others: str) -> Package:
    types = (THIS_MACHINE, *others)
    spec = samples.spec(formats=("onnx",), smoke=SmokeSpec(instance_types=types))
    return samples.package(store, spec, smoke=[samples.smoke_report("onnx", kind) for kind in types])


def test_no_node_is_chosen_by_the_machine_that_smoke_ran_on(store: LocalStore, tmp_path: Path) -> None:
    _write(_on_this_machine(store, OLD), tmp_path / "out")
    assert _required(tmp_path / "out")["node.kubernetes.io/instance-type"] == [OLD]
    deployment = (tmp_path / "out" / "kubernetes" / "deployment.yaml").read_text()
    assert "# this-machine, where smoke ran, was proven too; no node is chosen by it.\n" in deployment
    assert THIS_MACHINE not in deployment.replace("# this-machine, where smoke ran", "")


def test_what_is_proven_on_this_machine_alone_is_for_this_machine_alone(store: LocalStore, tmp_path: Path) -> None:
    package = _on_this_machine(store)
    with pytest.raises(GateBlocked, match=r"proven on this-machine alone.*--compose-only"):
        _write(package, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = _write(package, tmp_path / "out", reference=None)
    assert set(written.files) == {"compose.yaml", "placement.json"}


def test_a_proven_type_that_the_catalogue_no_longer_knows_is_not_left_out_silently(
    store: LocalStore, tmp_path: Path
) -> None:
    package = _package(store)
    known = {name: kind for name, kind in load_catalogue().items() if name != OLD}
    with pytest.raises(BadInput, match=f"{OLD}: proven, but no longer in the catalogue"):
        write_manifests(
            package, package.images[0], Asked(tmp_path / "out", REFERENCE, Scale()), known, {}, "an envelope"
        )


def test_features_that_all_proven_types_have_are_preferred_by_labels_that_are_really_set(
    store: LocalStore, tmp_path: Path
) -> None:
    _write(_package(store), tmp_path / "out")
    affinity = _pod(tmp_path / "out")["affinity"]["nodeAffinity"]
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    names = {rule["key"] for each in preferred for rule in each["preference"]["matchExpressions"]}
    # Ice Lake's AVX-512 is not Haswell's, and BMI2, which both have, is left out by node-feature-discovery's defaults.
    assert {name for name in names if name.startswith("feature")} == {
        f"feature.node.kubernetes.io/cpu-cpuid.{flag}" for flag in ("AVX", "AVX2", "FMA3")
    }


def test_feature_labels_are_required_where_that_is_asked_for(store: LocalStore, tmp_path: Path) -> None:
    failed = {"verdict": Verdict.FAILED, "findings": (samples.finding("SMOKE_LATENCY"),)}
    _write(_package(store, old=failed), tmp_path / "out", require_features=True)
    required = _required(tmp_path / "out")
    assert required["node.kubernetes.io/instance-type"] == [NEW]
    assert required["feature.node.kubernetes.io/cpu-cpuid.AVX512F"] == ["true"]


def test_the_memory_limit_is_what_the_most_demanding_type_needed_and_a_quarter(
    store: LocalStore, tmp_path: Path
) -> None:
    bisected = [{"capacity": Capacity(smallest_memory_bytes=size * MIB)} for size in (200, 400)]
    _write(_package(store, new=bisected[0], old=bisected[1]), tmp_path / "out")
    resources = _pod(tmp_path / "out")["containers"][0]["resources"]
    assert resources["limits"]["memory"] == resources["requests"]["memory"] == "500Mi"
    # Compose's health check runs in the container, beside the server.
    assert _read(tmp_path / "out", "compose.yaml")["services"]["digits"]["mem_limit"] == (500 + 16) * MIB


def test_cpus_are_those_that_figures_hold_for_and_leave_room_for_the_node(store: LocalStore, tmp_path: Path) -> None:
    capped = samples.finding("SMOKE_CPUS_CAPPED", verdict=Verdict.PASSED, evidence={"vcpus": 2, "type_vcpus": 16.0})
    _write(_package(store, new={"vcpus": 16.0, "findings": (capped,)}), tmp_path / "out")
    resources = _pod(tmp_path / "out")["containers"][0]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("1600m", "2000m")


def test_where_several_replicas_fit_each_asks_for_its_share_of_the_machine(store: LocalStore, tmp_path: Path) -> None:
    shared = {"vcpus": 8.0, "capacity": Capacity(max_rate_rps=100, replicas=4)}
    _write(_package(store, new=shared, old={"vcpus": 4.0}), tmp_path / "out")
    resources = _pod(tmp_path / "out")["containers"][0]["resources"]
    assert (resources["requests"]["cpu"], resources["limits"]["cpu"]) == ("1600m", "4000m")


def test_the_startup_probe_waits_three_times_the_slowest_measured_start(store: LocalStore, tmp_path: Path) -> None:
    slow = samples.smoke_report().figures.model_copy(update={"cold_start_s": 20.5})
    _write(_package(store, old={"figures": slow}), tmp_path / "out")
    probe = _pod(tmp_path / "out")["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 62


def test_pods_live_longer_than_the_server_takes_to_drain(store: LocalStore, tmp_path: Path) -> None:
    _write(_package(store), tmp_path / "out")
    pod = _pod(tmp_path / "out")
    (server,) = pod["containers"]
    (grace,) = [each["value"] for each in server["env"] if each["name"] == "SERVING_GRACE_S"]
    assert grace == str(_GRACE_S)
    before_term = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before_term + _GRACE_S


def test_pods_are_locked_down_and_carry_their_evidence(store: LocalStore, tmp_path: Path) -> None:
    package = _package(store)
    _write(package, tmp_path / "out")
    template = _read(tmp_path / "out", "kubernetes/deployment.yaml")["spec"]["template"]
    pod, (server,) = template["spec"], template["spec"]["containers"]
    assert server["image"] == REFERENCE
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert template["metadata"]["annotations"]["io.slipway.package"] == package.digest
    assert template["metadata"]["annotations"]["io.slipway.attestation"].startswith("sha256:")


def test_nothing_is_written_where_a_document_is_not_valid(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.deployment.compose._PIDS", ["not a number"])
    with pytest.raises(PlatformError, match=r"compose.yaml does not hold at services.digits.pids_limit"):
        _write(_package(store), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "store"]


def test_a_package_without_signed_evidence_is_not_deployed(store: LocalStore, tmp_path: Path) -> None:
    package = _package(store)
    with pytest.raises(GateBlocked, match="no signed evidence"):
        write_manifests(
            package, package.images[0], Asked(tmp_path / "out", REFERENCE, Scale()), load_catalogue(), {}, None
        )


def test_a_service_begins_with_a_letter_though_the_model_does_not(store: LocalStore, tmp_path: Path) -> None:
    spec = samples.spec(formats=("onnx",), name="9lives")
    smoke = [samples.smoke_report("onnx", kind) for kind in samples.TYPES]
    _write(samples.package(store, spec, smoke=smoke), tmp_path / "out")
    assert _read(tmp_path / "out", "kubernetes/service.yaml")["metadata"]["name"] == "model-9lives"


def test_what_is_there_is_not_overwritten(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="already there"):
        _write(_package(store), tmp_path / "out")


def test_an_image_in_no_registry_gets_a_compose_file_alone(store: LocalStore, tmp_path: Path) -> None:
    package = _package(store)
    written = _write(package, tmp_path / "out", reference=None)
    assert written.files == ("compose.yaml", "placement.json")
    service = _read(tmp_path / "out", "compose.yaml")["services"]["digits"]
    assert (service["image"], service["pull_policy"]) == (package.images[0].digest, "never")


def test_the_reasons_for_the_choice_lie_beside_it(store: LocalStore, tmp_path: Path) -> None:
    _write(_package(store), tmp_path / "out")
    placement = json.loads((tmp_path / "out" / "placement.json").read_text())
    assert placement["recommendation"]["format"] == "onnx"
    assert len(placement["matrix"]["cells"]) == 2


# --- which image --------------------------------------------------------------------------------------------------


def _pushed(image: Image, repository: str) -> Pushed:
    return Pushed(
        image=image.digest, layers=image.layers, repository=repository, tag="t", manifest=f"sha256:{'b' * 64}"
    )


def test_a_package_that_failed_as_a_whole_is_still_deployed_where_it_is_proven(store: LocalStore) -> None:
    failed = {"verdict": Verdict.FAILED, "findings": (samples.finding("SMOKE_LATENCY"),)}
    package = _package(store, new=failed)
    assert package.verdict is Verdict.FAILED
    assert chosen([package], "digits", None, {}) == (package, package.images[0])


def test_a_cluster_pulls_from_a_registry_by_digest_or_not_at_all() -> None:
    image = samples.image()
    places = [
        _pushed(image, "registry.example.com/digits"),
        _pushed(samples.image("savedmodel"), "r.example.com/other"),
    ]
    assert in_registry(image, places, None) == f"registry.example.com/digits@sha256:{'b' * 64}"
    with pytest.raises(BadInput, match="slipway push"):
        in_registry(image, places, "r.example.com/other")


def test_a_folder_that_cannot_be_written_is_a_wrong_argument(store: LocalStore) -> None:
    with pytest.raises(BadInput, match=r"/proc/manifests cannot be written"):
        _write(_package(store), Path("/proc/manifests"))

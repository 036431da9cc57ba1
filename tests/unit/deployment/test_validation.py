"""The checks before anything is written can fail: strict about unknown fields, and about types."""

from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest

from tasks.deployment.compose import compose
from tasks.deployment.kubernetes import Scale, documents
from tasks.deployment.node_features import labels
from tasks.deployment.validation import check_compose, check_kubernetes
from tasks.deployment.workload import Workload, workload
from tasks.errors import PlatformError
from tasks.placement import matrix_of, recommend
from tasks.smoke import load_catalogue
from tasks.smoke.catalogue import LEVELS
from tasks.store import LocalStore
from tests import samples


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    package = samples.package(LocalStore(tmp_path))
    matrix = matrix_of(package, {})
    reference = f"registry.example.com/digits@sha256:{'a' * 64}"
    return workload(package, package.images[0], reference, matrix, recommend(matrix), load_catalogue(), "an envelope")


def _put(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def test_what_is_written_holds_without_a_network(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise AssertionError("the check asked the network")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    for document in documents(work, Scale()).values():
        check_kubernetes(document)
    check_compose(compose(work))


SERVER = ("spec", "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("deployment", (*SERVER, "livenesProbe"), {}),
        ("deployment", (*SERVER, "securityContext", "readOnlyRootFileSystem"), True),
        ("deployment", ("spec", "template", "spec", "affinity", "nodeAffinity", "required"), []),
        ("deployment", (*SERVER, "ports", 0, "containerPort"), "http"),
        ("service", ("spec", "ports", 0, "nodeport"), 30000),
        ("horizontalpodautoscaler", ("spec", "minReplica"), 2),
        ("poddisruptionbudget", ("spec", "maxUnavailible"), 1),
        ("poddisruptionbudget", ("apiVersion",), "policy/v0"),
    ],
)
def test_a_field_that_kubernetes_does_not_know_is_refused_by_name(
    work: Workload, name: str, path: tuple[str | int, ...], value: Any
) -> None:
    wrong = _put(documents(work, Scale())[name], path, value)
    with pytest.raises(PlatformError, match=str(path[-1]) if isinstance(value, dict | bool) else wrong["kind"]):
        check_kubernetes(wrong)


@pytest.mark.parametrize(("key", "value"), [("memlimit", "1g"), ("read_only", ["yes"])])
def test_a_key_that_compose_does_not_know_is_refused(work: Workload, key: str, value: Any) -> None:
    with pytest.raises(PlatformError, match=f"compose.yaml does not hold at services.digits.*{key}"):
        check_compose(_put(compose(work), ("services", work.name, key), value))


def test_every_vector_extension_that_the_catalogue_tells_has_its_label() -> None:
    # node-feature-discovery's defaults leave these out: a rule that asks for one would never be met.
    untold = {"abm", "bmi1", "bmi2", "cx16", "f16c", "lahf_lm", "movbe", "popcnt", "sse4_1", "sse4_2", "ssse3", "xsave"}
    kinds = [kind for kind in load_catalogue().values() if kind.architecture == "amd64"]
    features = frozenset[str]().union(*(kind.features for kind in kinds), LEVELS["x86-64-v4"])
    assert [name for name in sorted(features - untold) if not labels([name])] == []
    assert labels(untold) == ()

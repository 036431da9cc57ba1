"""A workload → Kubernetes documents: Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget. Pure.

Nodes are chosen by `node.kubernetes.io/instance-type` and `kubernetes.io/arch`, which every cloud's nodes carry, and by
nothing that was not proven. The CPU features that all proven types have are preferred among them, by the labels of
node-feature-discovery, and required only where asked: in a cluster without it, or one that is scaled up from no node,
no node carries those labels yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tasks.deployment.workload import Workload

#: Where the server in an image listens (`docker/serving/__main__.py`).
HTTP_PORT, GRPC_PORT = 8000, 8001
#: The image's own user (docker/base): numeric, or `runAsNonRoot` cannot be checked.
USER = 65532

#: Seconds that requests in flight have after SIGTERM: the server's own default, said so that both ends agree.
SERVER_GRACE_S = 25
#: Between the pod's deletion and SIGTERM: its address is still being taken out of load balancers, and a server that
#: already drains would refuse what they send.
_PRE_STOP_S = 5
#: After its grace the server answers what waits with 503 and sends last bytes: up to a second each for refusals, gRPC
#: and HTTP (`docker/serving/server.py`, `listener.py`); and as much again before it would be killed.
_LAST_WORDS_S = 5

#: A first start reads the image from a cold disk, beside whatever else the node starts; smoke's was measured alone.
_START_FACTOR = 3
_START_AT_LEAST_S = 30
#: Of the CPU that is asked for, when more replicas come: they take a cold start to help.
_CPU_TARGET_PERCENT = 70

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas. Two, so that a node may be drained; more than what is proven to be needed is the user's."""

    least: int = 2
    most: int = 10


def documents(work: Workload, scale: Scale, *, require_features: bool = False) -> dict[str, Document]:
    """The documents by the name of their file."""
    return {
        "deployment": _deployment(work, require_features=require_features),
        "service": _service(work),
        "horizontalpodautoscaler": _autoscaler(work, scale),
        "poddisruptionbudget": _disruption_budget(work),
    }


def _selector(work: Workload) -> dict[str, str]:
    """What may never change while the workload lives: neither its format nor its version."""
    return {"app.kubernetes.io/name": work.name, "app.kubernetes.io/component": "model-server"}


def _metadata(work: Workload) -> Document:
    return {
        "name": work.name,
        "labels": {
            **_selector(work),
            "app.kubernetes.io/version": work.version,
            "app.kubernetes.io/managed-by": "slipway",
        },
        "annotations": dict(work.evidence),
    }


def _deployment(work: Workload, *, require_features: bool) -> Document:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(work),
        "spec": {  # no `replicas`: they are the autoscaler's
            "selector": {"matchLabels": _selector(work)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": _metadata(work)["labels"], "annotations": dict(work.evidence)},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "terminationGracePeriodSeconds": _PRE_STOP_S + SERVER_GRACE_S + _LAST_WORDS_S,
                    "affinity": {"nodeAffinity": _node_affinity(work, require_features=require_features)},
                    "topologySpreadConstraints": [
                        _spread(work, "topology.kubernetes.io/zone"),
                        _spread(work, "kubernetes.io/hostname"),
                    ],
                    "containers": [_container(work)],
                },
            },
        },
    }


def _container(work: Workload) -> Document:
    memory = f"{work.memory_bytes // 2**20}Mi"
    return {
        "name": "server",
        "image": work.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "SERVING_GRACE_S", "value": str(SERVER_GRACE_S)}],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": f"{work.cpu_request_millis}m", "memory": memory},
            "limits": {"cpu": f"{work.cpu_limit_millis}m", "memory": memory},
        },
        "startupProbe": _probe("ready", period_s=1, timeout_s=1, failures=_start_within_s(work)),
        "readinessProbe": _probe("ready", period_s=2, timeout_s=2, failures=2),
        "livenessProbe": _probe("live", period_s=10, timeout_s=5, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_S}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _start_within_s(work: Workload) -> int:
    return max(_START_AT_LEAST_S, math.ceil(_START_FACTOR * work.cold_start_s))


def _probe(what: str, *, period_s: int, timeout_s: int, failures: int) -> Document:
    return {
        "httpGet": {"path": f"/v2/health/{what}", "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def _node_affinity(work: Workload, *, require_features: bool) -> Document:
    proven = [
        _in("node.kubernetes.io/instance-type", work.node_types),
        _in("kubernetes.io/arch", work.architectures),
    ]
    features = [_in(label, ("true",)) for label in work.node_labels]
    required = [*proven, *(features if require_features else [])]
    affinity: Document = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": required}]}
    }
    preferred = []
    if work.recommended_type is not None and len(work.node_types) > 1:
        recommended = _in("node.kubernetes.io/instance-type", (work.recommended_type,))
        preferred.append({"weight": 50, "preference": {"matchExpressions": [recommended]}})
    if features and not require_features:
        preferred.append({"weight": 100, "preference": {"matchExpressions": features}})
    if preferred:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    return affinity


def _in(key: str, values: tuple[str, ...]) -> Document:
    return {"key": key, "operator": "In", "values": list(values)}


def _spread(work: Workload, over: str) -> Document:
    """Replicas apart where there is room; one node of a proven type alone may still take them all."""
    return {
        "maxSkew": 1,
        "topologyKey": over,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _selector(work)},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _service(work: Workload) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(work),
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(work),
            "ports": [
                {"name": "http", "port": HTTP_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
                {
                    "name": "grpc",
                    "port": GRPC_PORT,
                    "targetPort": "grpc",
                    "protocol": "TCP",
                    "appProtocol": "kubernetes.io/h2c",
                },
            ],
        },
    }


def _autoscaler(work: Workload, scale: Scale) -> Document:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(work),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": work.name},
            "minReplicas": scale.least,
            "maxReplicas": scale.most,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": _CPU_TARGET_PERCENT},
                    },
                }
            ],
        },
    }


def _disruption_budget(work: Workload) -> Document:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(work),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": _selector(work)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }

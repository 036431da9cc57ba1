"""Scheduling rules from evidence: Kubernetes manifests that name proven instance types only; compose for one machine.

node_features.py   the kernel's names of CPU features → the labels that node-feature-discovery sets
workload.py        package + image + proven cells → what is to be run, with every figure and its reason (pure)
kubernetes.py      a workload → Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget (pure)
compose.py         a workload → compose.yaml (pure)
validation.py      documents against bundled schemas, strictly, offline
choice.py          what a person names → the package and the image that is meant (pure)
manifests.py       what the command does: a package → a folder, whole and valid or not there at all
"""

from __future__ import annotations

from tasks.deployment.choice import chosen, in_registry
from tasks.deployment.kubernetes import Scale
from tasks.deployment.manifests import Asked, Manifests, write_manifests

__all__ = ["Asked", "Manifests", "Scale", "chosen", "in_registry", "write_manifests"]

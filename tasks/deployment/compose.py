"""A workload → compose.yaml for one machine of a proven type: the container as smoke ran it. Pure.

Only keys that both Compose 2 and Debian 12's docker-compose 1.29 read: no project name, limits without `deploy`.
"""

from __future__ import annotations

from typing import Any

from tasks.deployment.kubernetes import GRPC_PORT, HTTP_PORT, SERVER_GRACE_S, USER
from tasks.deployment.workload import Workload
from tasks.smoke.emulation import PYTHON_IN_IMAGE

#: As smoke's (`tasks.image.engine.ContainerSpec`).
_PIDS = 512
#: The image has no shell and no curl: its interpreter asks.
_ASK = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{HTTP_PORT}/v2/health/ready', timeout=2)"


def compose(work: Workload) -> dict[str, Any]:
    """The document."""
    return {
        "services": {
            work.name: {
                "image": work.image,
                # An image's own digest is in no registry: there is nowhere to pull it from.
                **({"pull_policy": "never"} if work.image.startswith("sha256:") else {}),
                "user": f"{USER}:{USER}",
                "read_only": True,
                "cap_drop": ["ALL"],
                "security_opt": ["no-new-privileges:true"],
                "pids_limit": _PIDS,
                "cpus": work.cpu_limit_millis / 1000,
                "mem_limit": work.memory_bytes,
                "memswap_limit": work.memory_bytes,  # the same: no swap, as smoke ran it
                "environment": {"SERVING_GRACE_S": str(SERVER_GRACE_S)},
                "stop_grace_period": f"{SERVER_GRACE_S + 5}s",
                "restart": "unless-stopped",
                "ports": [
                    f"127.0.0.1:${{SLIPWAY_HTTP_PORT:-{HTTP_PORT}}}:{HTTP_PORT}",
                    f"127.0.0.1:${{SLIPWAY_GRPC_PORT:-{GRPC_PORT}}}:{GRPC_PORT}",
                ],
                "healthcheck": {
                    "test": ["CMD", PYTHON_IN_IMAGE, "-c", _ASK],
                    "interval": "10s",
                    "timeout": "5s",
                    "retries": 3,
                    "start_period": f"{max(1, round(work.cold_start_s * 3))}s",
                },
                "labels": {**work.evidence, "io.slipway.proven-on": " ".join(work.instance_types)},
            }
        }
    }

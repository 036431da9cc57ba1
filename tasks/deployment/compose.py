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
#: The image has no shell and no curl: its interpreter asks, and within the container's memory. So it takes no library
#: that loads more than a socket (13 MB; 21 MB with urllib, by ru_maxrss in the image), and the limit is that much more.
_ASK = (
    f"import socket; to = socket.create_connection(('127.0.0.1', {HTTP_PORT}), 2); "
    "to.sendall(b'GET /v2/health/ready HTTP/1.0\\r\\n\\r\\n'); assert b' 200 ' in to.recv(64)"
)
_ASKING_BYTES = 16 * 2**20


def compose(work: Workload) -> dict[str, Any]:
    """The document."""
    memory = work.memory_bytes + _ASKING_BYTES
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
                "mem_limit": memory,
                "memswap_limit": memory,  # the same: no swap, as smoke ran it
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

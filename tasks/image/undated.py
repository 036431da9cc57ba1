"""Images that are written instead of built: a configuration without the time of day, and the archive that loads it.

An image's digest is that of its configuration (OCI image-spec, config.md), into which engines write when and where they
built it. Here it follows from the layers, how the image runs, and its labels, so that two machines come to the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from tasks.image.context import DATE, Context

#: What of an image's configuration decides how it runs (OCI image-spec, config.md).
_CONFIGURED = ("Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "WorkingDir")


def undated_configuration(
    inspected: Mapping[str, Any], layers: Sequence[str], labels: Mapping[str, str] | None = None
) -> bytes:
    """The configuration (OCI image-spec, config.md) of an image that runs like `inspected`, with these layers and more
    labels, and without the times and the machine that it was built at."""
    created = datetime.fromtimestamp(DATE, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {name: value for name in _CONFIGURED if (value := inspected["Config"].get(name))}
    configuration = {
        "architecture": inspected["Architecture"],
        "os": inspected["Os"],
        "created": created,
        "config": {**config, "Labels": {**config.get("Labels", {}), **(labels or {})}},
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
        "history": [{"created": created, "created_by": "slipway"} for _ in layers],
    }
    return json.dumps(configuration, sort_keys=True, separators=(",", ":")).encode()


def write_archive(stream: IO[bytes], configuration: bytes, tag: str, layers: Mapping[str, IO[bytes]]) -> None:
    """What `docker load` takes (Docker image specification v1.2) with these layers alone; the engine has the others."""
    names = [f"{digest.removeprefix('sha256:')}.tar" for digest in json.loads(configuration)["rootfs"]["diff_ids"]]
    archive = Context(stream)
    for digest, content in layers.items():
        content.seek(0)
        archive.add_stream(f"{digest.removeprefix('sha256:')}.tar", content)
    archive.add_bytes("config.json", configuration)
    archive.add_bytes(
        "manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode()
    )
    archive.finish()


def digest_of_bytes(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

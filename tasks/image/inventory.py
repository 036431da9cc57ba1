"""What is installed in a runtime's image: Debian packages and Python distributions, asked of the image itself.

A container of it, locked down as always, lists what it sees (`docker/runtimes/inventory.py`). The answer is remembered
by the image's digest, so that a model on a runtime that is there costs no container.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Literal

from tasks.contracts import Contract, Digest, digest_of
from tasks.errors import BuildFailed
from tasks.image.engine import ContainerSpec, Engine, run
from tasks.store import Store

_SCRIPT = Path(__file__).parents[2] / "docker" / "runtimes" / "inventory.py"
#: Listing takes a second; a container that hangs is no inventory.
_TIMEOUT_S = 60.0


class Installed(Contract):
    """One package. `texts` are where its licences lie in the image; `sha256` is its archive's, where that is known."""

    kind: Literal["debian", "python"]
    name: str
    version: str
    architecture: str | None = None
    licences: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    sha256: str | None = None


class Inventory(Contract):
    """All packages of an image, Debian's first."""

    packages: tuple[Installed, ...]


def inventory_of(image: Digest, engine: Engine, store: Store) -> Inventory:
    """What is installed in an image.

    Raises:
        BuildFailed: the image cannot list it.
        EngineUnavailable: the engine does not answer.
    """
    script = _SCRIPT.read_text()
    key = digest_of([image, script, Installed.model_json_schema()])
    if (known := store.get_result("inventory", key)) is not None:
        return Inventory.model_validate_json(known)
    spec = ContainerSpec(
        image=image,
        name=f"slipway-inventory-{uuid.uuid4().hex[:12]}",
        component="image",
        entrypoint=("python3.11", "-c", script, "/"),
    )
    done = run(engine, spec, _TIMEOUT_S)
    if done.timed_out or done.state.exit_code != 0:
        raise BuildFailed(f"the image {image} could not list what is installed in it; it said:\n{done.logs.strip()}")
    found = Inventory(packages=tuple(Installed(**json.loads(line)) for line in done.logs.splitlines()))
    store.put_result("inventory", key, found.model_dump_json())
    return found

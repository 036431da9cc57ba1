"""The router's image: built by docker/router/build.sh where it is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.errors import BuildFailed, EngineUnavailable
from tasks.image.engine import Engine, ImageInfo

_SCRIPT = Path(__file__).parents[3] / "docker" / "router" / "build.sh"


def router_image(engine: Engine) -> ImageInfo:
    """The image with HAProxy (seconds at first, nothing afterwards).

    Raises:
        BuildFailed: with the script's last lines.
        EngineUnavailable: the docker command talks to another engine.
    """
    done = subprocess.run([str(_SCRIPT)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise BuildFailed(f"the router's image could not be made:\n{last}")
    reference = done.stdout.strip().splitlines()[-1]
    found = engine.find_image(reference)
    if found is None:
        raise EngineUnavailable(
            f"the docker command has the router's image {reference}, the engine that Slipway talks to has not: "
            "let DOCKER_HOST and the docker context name the same engine"
        )
    return found

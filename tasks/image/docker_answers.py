"""What the Docker engine and its registries answer when something is wrong → Slipway's errors, with a sentence each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.errors import BadInput, EngineUnavailable, PlatformError, RegistryFailed


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """Turn transport failures into `EngineUnavailable`, and the engine's own complaints into `PlatformError`."""
    import requests

    import docker

    try:
        yield
    except docker.errors.APIError as error:
        raise PlatformError(f"the Docker engine refused: {reason(error)}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, ConnectionError) as error:
        raise EngineUnavailable(f"the Docker engine stopped answering: {reason(error)}") from error


#: What a registry's refusal says, in the words of Docker's engine, which gives no code for it.
_NOT_LET_IN = ("unauthorized", "denied", "authentication required", "no basic auth credentials")
_NOT_THERE = ("manifest unknown", "not found", "name unknown")


@contextlib.contextmanager
def registry_answers(repository: str) -> Iterator[None]:
    """Turn what a registry answers into the sentence for whoever must act."""
    import docker

    host = repository.partition("/")[0]
    try:
        with answers():
            try:
                yield
            except docker.errors.APIError as error:
                raise _RegistryAnswer(reason(error)) from error
    except _RegistryAnswer as error:
        said = str(error)
        if any(words in said.lower() for words in _NOT_LET_IN):
            raise RegistryFailed(
                f"the registry {host} does not let this user into {repository}: `docker login {host}` ({said})"
            ) from error
        if any(words in said.lower() for words in _NOT_THERE):
            raise BadInput(
                f"the registry {host} has no such image in {repository}: check the digest ({said})"
            ) from error
        raise RegistryFailed(
            f"the registry {host} does not answer as one: check its address, and that it runs ({said})"
        ) from error


class _RegistryAnswer(Exception):
    """What went wrong, in the engine's words."""


def raise_event(event: Mapping[str, Any]) -> None:
    """Stop at an event of a push or pull that says what went wrong."""
    if "error" in event:
        raise _RegistryAnswer(str(event["error"]))


def reason(error: BaseException) -> str:
    """The engine's own words, taken out of what its client made of them."""
    explanation = getattr(error, "explanation", None)
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    if isinstance(explanation, str) and explanation:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(explanation)["message"])
        return explanation
    return str(error) or type(error).__name__

"""The two networks that Slipway's containers are on, made when the first container needs one, and kept.

Neither has a way out of the machine, and nobody on them reaches another: an `internal` network would publish no ports;
without masquerading, no answer finds the way back.

    ISOLATED    ports are published on loopback, addresses are whatever the engine gives
    SERVING     each container has an address that stays its own. The engine gives addresses anew whenever containers
                start, in the order in which they do: after a restart of the machine, the stable version might have that
                of the canary, and whoever routes by address would send it the wrong share
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tasks.errors import PlatformError
from tasks.image.docker_answers import answers
from tasks.image.engine import COMPONENT_LABEL, ISOLATED, SERVING

if TYPE_CHECKING:
    from docker import APIClient

_OPTIONS = {
    "com.docker.network.bridge.enable_ip_masquerade": "false",
    "com.docker.network.bridge.enable_icc": "false",
}


def ensure_isolated(api: APIClient) -> None:
    """Make the network `ISOLATED` where it is not there."""
    if _inspected(api, ISOLATED) is None:
        _create(api, ISOLATED, None)


def free_address(api: APIClient) -> str:
    """An address of the network `SERVING`, made where it is not there, that no container has or will have again.

    Another process may be given the same at the same time: the engine then refuses to start one of the two.
    """
    network = _inspected(api, SERVING) or _made_with_subnet(api)
    settings = network["IPAM"]["Config"][0]
    with answers():
        listed = api.containers(all=True, filters={"network": SERVING})
    own = (entry["NetworkSettings"]["Networks"].get(SERVING) for entry in listed)
    taken = [settings.get("Gateway", ""), *(address_in(endpoint) or "" for endpoint in own)]
    return lowest_free(settings["Subnet"], taken)


def address_in(endpoint: dict[str, Any] | None) -> str | None:
    """The address of a container in a network: the one that it was given to keep, else the one that it has now."""
    if not endpoint:
        return None
    return (endpoint.get("IPAMConfig") or {}).get("IPv4Address") or endpoint.get("IPAddress") or None


def lowest_free(subnet: str, taken: Iterable[str]) -> str:
    """The lowest address of a host in `subnet` that is not taken.

    Raises:
        PlatformError: there is none.
    """
    used = set(taken)
    for address in ipaddress.ip_network(subnet).hosts():
        if str(address) not in used:
            return str(address)
    raise PlatformError(f"the network {SERVING} ({subnet}) has no address left: remove containers that serve nobody")


def _made_with_subnet(api: APIClient) -> dict[str, Any]:
    """The network `SERVING`. Only in a network whose subnet was asked for can a container keep an address, and which
    subnet is free is known to the engine: it is asked for a network, and then for the same once more."""
    probe = f"{SERVING}-probe"
    with answers(), contextlib.suppress(_not_found()):
        api.remove_network(probe)  # of a process that was killed here
    _create(api, probe, None)
    found = _inspected(api, probe)
    with answers(), contextlib.suppress(_not_found()):
        api.remove_network(probe)
    if found is not None:
        _create(api, SERVING, found["IPAM"]["Config"][0])
    made = _inspected(api, SERVING)
    if made is None:
        raise PlatformError(f"the Docker engine made no network {SERVING}: another process may be making it, try again")
    return made


def _create(api: APIClient, name: str, subnet: dict[str, str] | None) -> None:
    import docker

    ipam = None
    if subnet is not None:
        pool = docker.types.IPAMPool(subnet=subnet["Subnet"], gateway=subnet.get("Gateway"))
        ipam = docker.types.IPAMConfig(pool_configs=[pool])
    with answers():
        try:
            api.create_network(
                name,
                driver="bridge",
                options=_OPTIONS,
                ipam=ipam,
                labels={COMPONENT_LABEL: "network"},
                check_duplicate=True,
            )
        except docker.errors.APIError as error:
            if error.status_code != 409:  # another process was faster
                raise


def _inspected(api: APIClient, name: str) -> dict[str, Any] | None:
    with answers():
        try:
            return dict(api.inspect_network(name))
        except _not_found():
            return None


def _not_found() -> type[Exception]:
    import docker

    return docker.errors.NotFound

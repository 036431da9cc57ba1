"""HAProxy in a container of this machine: one for each model, which outlives whoever started it.

    <home>/router/<model>/haproxy.cfg    the desired route, all of it: what a start, a restart or a reload comes up with
    <home>/router/<model>/master.sock    where the running processes are told and asked

It is in the host's network namespace: it listens on loopback alone, and reaches the arms at their own addresses,
without the engine's proxy in between. New addresses and weights are told to the running processes, which drops
nothing; only what cannot be told (the port, the header that decides, the objective) is a reload, where the old process
finishes what it has.

Whatever is desired is told to running processes first and written down next, because taking traffic away must not wait
for a disk.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping

from tasks.errors import PlatformError
from tasks.image.engine import ContainerInfo, ContainerSpec, Engine
from tasks.release.arms.labels import HOME_LABEL, MODEL_LABEL
from tasks.release.contracts import Arm, Endpoint, Route, RouterCounts
from tasks.release.router import statistics
from tasks.release.router.configuration import (
    FILE,
    FOLDER,
    NOWHERE,
    SOCKET,
    address_of,
    configuration,
    percent_of,
    route_of,
    share_of,
    structure,
)
from tasks.release.router.image import router_image
from tasks.release.router.runtime import Master, Unheard
from tasks.release.router.written import write_whole
from tasks.settings import Settings
from tasks.workspace import locked

COMPONENT = "router"

#: Who runs in the container where root starts it (docker/router); a user who is not root runs it as themselves, because
#: its socket must be theirs.
_NONROOT = 65532
#: Seconds that HAProxy has to start or to reload: it takes a tenth of one.
_START_S = 20.0
#: Seconds that requests in flight have when a router is taken away.
_STOP_S = 10
_POLL_S = 0.02

_VALUE = re.compile(r"value=<(.*)>")


class HaproxyRouter:
    """See `tasks.release.contracts.Router`."""

    def __init__(self, model: str, engine: Engine, settings: Settings) -> None:
        self._model = model
        self._engine = engine
        self._home = settings.home
        self._folder = settings.home / "router" / model
        self._lock = settings.home / "locks" / f"router-{model}.lock"
        self._master = Master(self._folder / SOCKET)

    @property
    def container(self) -> str:
        """The name of the container."""
        return f"slipway-router-{self._model}"

    # --- what the protocol asks ------------------------------------------------------------------------------------

    def ensure(self, route: Route) -> None:
        wanted = route.model_copy(
            update={"stable": _resolved(route.stable), "canary": route.canary and _resolved(route.canary)}
        )
        with locked(self._lock):
            there = self._there()
            if there is None or not there.running:
                self._write(wanted)
                self._start(wanted)
                return
            workers = self._workers()
            if self._variable(workers[0], "structure") == structure(wanted):
                for worker in workers:
                    self._adapt(worker, wanted)
                self._write(wanted)
            else:
                self._write(wanted)
                self._reload(wanted)
            self._check(wanted)

    def set_weight(self, percent: float) -> None:
        with locked(self._lock):
            route = self._route()
            if route is None:
                raise PlatformError(f"the router of {self._model} has no route: a release makes one")
            if percent and route.canary is None:
                raise PlatformError(f"the router of {self._model} has no canary that could get {percent:g} %")
            wanted = route.model_copy(update={"weight": percent})
            try:
                for worker in self._master.workers():
                    self._tell(worker, [_weight(percent)])
                self._check(wanted)
            finally:
                self._write(wanted)  # also where HAProxy does not answer: it comes up with it

    def weight(self) -> float | None:
        with contextlib.suppress(Unheard, ValueError):
            return percent_of(int(self._variable(self._master.workers()[0], "canary")))
        return None

    def counts(self) -> Mapping[Arm, RouterCounts] | None:
        route = self._route()
        if route is None:
            return None
        with contextlib.suppress(Unheard, ValueError):
            worker = self._master.workers()[0]
            incarnation = self._variable(worker, "counting")
            found = statistics.counts(
                self._master.tell(worker, ["show stat"]),
                self._master.tell(worker, ["show table slow"]),
                incarnation,
                has_objective=route.p99_ms is not None,
            )
            # Where counting began again meanwhile, what was read is of both.
            if self._variable(worker, "counting") == incarnation:
                return found
        return None

    def remove(self) -> None:
        with locked(self._lock):
            if self._there() is not None:
                with contextlib.suppress(PlatformError):  # it may have ended by itself
                    self._engine.stop(self.container, _STOP_S)
                self._engine.remove(self.container)
            shutil.rmtree(self._folder, ignore_errors=True)

    # --- the container ---------------------------------------------------------------------------------------------

    def _there(self) -> ContainerInfo | None:
        """The router's container.

        Raises:
            PlatformError: it is another installation's.
        """
        found = self._engine.containers(f"{MODEL_LABEL}={self._model}")
        mine = next((info for info in found if info.name == self.container), None)
        if mine is not None and mine.labels.get(HOME_LABEL) != str(self._home):
            raise PlatformError(
                f"the container {self.container} is of another SLIPWAY_HOME, {mine.labels.get(HOME_LABEL)}: "
                f"release {self._model} from there, or remove it with `docker rm --force {self.container}`"
            )
        return mine

    def _start(self, route: Route) -> None:
        user = _NONROOT if os.getuid() == 0 else os.getuid()
        self._engine.start(
            ContainerSpec(
                image=router_image(self._engine).id,
                name=self.container,
                component=COMPONENT,
                entrypoint=("haproxy",),
                command=("-W", "-db", "-S", f"{FOLDER}/{SOCKET},mode,600,level,admin", "-f", f"{FOLDER}/{FILE}"),
                network="host",
                writable={self._folder: FOLDER},
                user=f"{user}:{user if os.getuid() == 0 else os.getgid()}",
                labels={MODEL_LABEL: self._model, HOME_LABEL: str(self._home)},
                stays=True,
            )
        )
        try:
            self._until_running(route, "it does not start")
        except PlatformError:
            self._engine.remove(self.container)  # or the engine would start it again and again
            raise

    def _until_running(self, route: Route, what: str) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(Unheard):
                if self._variable(self._master.workers()[0], "structure") == structure(route) and _listens(route.port):
                    return
            restarted = self._engine.state(self.container)
            if time.monotonic() > deadline or not restarted.running:
                log = self._engine.logs(self.container, 15).strip()
                raise PlatformError(f"the router of {self._model}: {what}; HAProxy says:\n{log}")
            time.sleep(_POLL_S)

    # --- running processes -----------------------------------------------------------------------------------------

    def _adapt(self, worker: int, route: Route) -> None:
        """Have a process do what the route says; where addresses change, it counts from zero again."""
        shown = self._master.tell(worker, ["show stat"])
        stable, canary = address_of(route.stable), address_of(route.canary or NOWHERE)
        commands = []
        if statistics.address(shown, "stable", "stable") != stable:
            commands += [_address("stable/stable", route.stable), _address("canary/instead", route.stable)]
        if statistics.address(shown, "canary", "canary") != canary:
            commands += [_weight(0), _address("canary/canary", route.canary or NOWHERE)]
        if commands:
            commands = ["set var proc.counting date(0,us)", "clear counters all", "clear table slow", *commands]
        # Not into maintenance: that would break off what is in flight.
        commands += (
            ["set server canary/canary state ready", "enable health canary/canary"]
            if route.canary
            else ["set server canary/canary state drain", "disable health canary/canary"]
        )
        self._tell(worker, [*commands, _weight(route.weight)])

    def _workers(self) -> tuple[int, ...]:
        """The workers of a container that runs, perhaps since a moment ago."""
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return self._master.workers()
            except Unheard:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def _reload(self, route: Route) -> None:
        before = self._master.workers()[0]
        with contextlib.suppress(Unheard):  # it reads its configuration again by starting anew
            self._master.ask("reload")
        self._until_running(route, "it does not take its new configuration, and goes on with the one before")
        with contextlib.suppress(Unheard):
            for worker in self._master.workers():
                if worker == before:
                    self._adapt(worker, route)

    def _check(self, route: Route) -> None:
        """Hold what HAProxy does against what it was told.

        Raises:
            PlatformError: it does something else.
        """
        worker = self._master.workers()[0]
        shown = self._master.tell(worker, ["show stat"])
        expected = (share_of(route.weight), address_of(route.stable), address_of(route.canary or NOWHERE))
        found = (
            int(self._variable(worker, "canary")),
            statistics.address(shown, "stable", "stable"),
            statistics.address(shown, "canary", "canary"),
        )
        if found != expected:
            raise PlatformError(
                f"the router of {self._model} did not take its route: expected {expected}, found {found} "
                "(weight in 0.01 %, stable, canary)"
            )

    def _tell(self, worker: int, commands: list[str]) -> None:
        with contextlib.suppress(Unheard):  # one that was leaving has left; the new one is checked afterwards
            self._master.tell(worker, commands)

    def _variable(self, worker: int, name: str) -> str:
        """
        Raises:
            Unheard: there is no such process or variable.
        """
        found = _VALUE.search(self._master.tell(worker, [f"get var proc.{name}"]))
        if found is None:
            raise Unheard(f"HAProxy behind {self._master.socket} has no variable proc.{name}")
        return found[1]

    # --- the file --------------------------------------------------------------------------------------------------

    def _route(self) -> Route | None:
        try:
            return route_of((self._folder / FILE).read_text())
        except OSError:
            return None

    def _write(self, route: Route) -> None:
        write_whole(self._folder / FILE, configuration(route), _NONROOT if os.getuid() == 0 else None)


def _weight(percent: float) -> str:
    return f"set var proc.canary int({share_of(percent)})"


def _address(server: str, endpoint: Endpoint) -> str:
    return f"set server {server} addr {endpoint.host} port {endpoint.port}"


def _resolved(endpoint: Endpoint) -> Endpoint:
    """With an address instead of a name: a running HAProxy takes no names.

    Raises:
        PlatformError: nobody knows the name.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(endpoint.host)
        return endpoint
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise PlatformError(f"the address of {endpoint.host} is not known here: {error.strerror}") from error
    return endpoint.model_copy(update={"host": str(found[0][4][0])})


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

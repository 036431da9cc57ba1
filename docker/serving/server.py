"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends with 0.
What still waits when the grace is over is refused with 503. A second signal ends it at once (`serving.stopping`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.application import Application
from serving.contract import Batching
from serving.front import Front
from serving.inference import Inference
from serving.log import log
from serving.package import Refusal, Refused, open_package
from serving.scheduling import scheduling
from serving.stopping import Stopping
from serving.watch import Watch, watching

if TYPE_CHECKING:
    from serving.rpc import Rpc

#: Seconds to write the refusals of what still waits then.
_REFUSALS_S = 1.0
#: Seconds that answers have to leave over gRPC, once they are written.
_LAST_BYTES_S = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens: `port` is HTTP's, `grpc_port` gRPC's; None for no gRPC."""

    host: str
    port: int
    grpc_port: int | None = None


def serve(folder: Path, address: Address, overrides: Batching, grace_s: float, stopping: Stopping) -> None:
    """Serve the package in `folder` until SIGTERM or SIGINT; `overrides` come before what its contract says.

    Raises:
        Refused: the package does not hold, or the address cannot be listened on.
    """
    started = time.monotonic()
    served = open_package(folder, overrides.threads)
    for number in (address.port, address.grpc_port):
        if number is not None:
            _check_free(address.host, number)
    chosen = scheduling(served.contract, overrides)
    log(
        "opened",
        model=served.contract.name,
        version=served.contract.version,
        threads=chosen.threads,
        **asdict(chosen.limits),
        seconds=round(time.monotonic() - started, 3),
    )
    pool = ThreadPoolExecutor(chosen.limits.workers, thread_name_prefix="inference")
    inference = Inference(served, pool, chosen.limits)
    try:
        with watching(served, folder) as watch:
            application = Application(served, inference, watch.observer, watch.pages)
            watch.follow(application.front, inference)
            asyncio.run(_serve(application, inference, address, grace_s, stopping, watch))
    finally:
        if inference.busy:
            # Native code cannot be interrupted, and what it works on must not be taken from it.
            log("stopped", working=inference.busy, seconds=round(time.monotonic() - started, 3))
            os._exit(0)
        pool.shutdown()
        served.runner.close()
    log("stopped", seconds=round(time.monotonic() - started, 3))


def _check_free(host: str, port: int) -> None:
    """Granian would share the port with whoever has it (SO_REUSEPORT), and each would get some of the requests.

    Raises:
        Refused: ADDRESS.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise Refused(Refusal.ADDRESS, f"{host}:{port} cannot be listened on: {error.strerror}") from error


async def _serve(
    application: Application,
    inference: Inference,
    address: Address,
    grace_s: float,
    stopping: Stopping,
    watch: Watch,
) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    server = Server(
        application,
        address=address.host,
        port=address.port,
        interface=Interfaces.RSGI,
        http=HTTPModes.auto,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    front = application.front
    front.started = address.grpc_port is None
    rpc: Rpc | None = None
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(asked.wait())
    try:
        await _listening(serving, address.port)
        if address.grpc_port is not None:
            rpc = await _start_rpc(front, address.host, address.grpc_port)
            front.started = True
        stopping.on_first(partial(loop.call_soon_threadsafe, asked.set))
        log("ready", host=address.host, port=address.port, grpc_port=address.grpc_port)
        loop.run_in_executor(None, watch.warm)
        await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise Refused(Refusal.ADDRESS, f"port {address.port} is no longer served: {serving.exception()}")
        front.draining = True
        if not await front.drained(grace_s):
            log("stopping with requests in flight", grace_s=grace_s, refused=inference.close())
            await front.drained(_REFUSALS_S)
    finally:
        stop.cancel()
        if rpc is not None:
            await rpc.stop(_LAST_BYTES_S)
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait((serving,))


async def _start_rpc(front: Front, host: str, port: int) -> Rpc:
    """The gRPC server, started. Its library is imported in a thread, while HTTP answers already.

    Raises:
        Refused: ADDRESS.
    """
    rpc = await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "serving.rpc")
    try:
        server: Rpc = rpc.Rpc(front, f"{host}:{port}")
        await server.start()
    except OSError as error:
        raise Refused(Refusal.ADDRESS, str(error)) from error
    return server


async def _listening(serving: asyncio.Task[None], port: int) -> None:
    """Return once the port answers.

    Raises:
        Refused: ADDRESS.
    """
    while not serving.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("localhost", port)
            writer.close()
            return
        await asyncio.sleep(0.002)
    reason = serving.exception()
    raise Refused(Refusal.ADDRESS, f"port {port} cannot be listened on: {reason or 'the server ended'}")

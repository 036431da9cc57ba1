"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from serving.application import Application
from serving.cpus import available_cpus
from serving.front import Front
from serving.inference import Inference
from serving.log import log
from serving.package import Refusal, Refused, open_package

if TYPE_CHECKING:
    from serving.rpc import Rpc

#: Seconds that requests in flight have to finish after SIGTERM.
_GRACE_S = 25.0
#: Seconds that answers have to leave over gRPC, once they are written.
_LAST_BYTES_S = 1.0


def serve(
    folder: Path, host: str, port: int, threads: int | None, workers: int | None, grpc_port: int | None = None
) -> None:
    """Serve the package in `folder` until SIGTERM or SIGINT.

    `threads` are used by one inference, `workers` inferences run at once; both follow the CPU quota unless given.
    `port` is HTTP's; `grpc_port` is gRPC's, None for no gRPC.

    Raises:
        Refused: the package does not hold, or the address cannot be listened on.
    """
    started = time.monotonic()
    cpus = available_cpus()
    threads, workers = threads or cpus, workers or max(2, cpus)
    served = open_package(folder, threads)
    for number in (port, grpc_port):
        if number is not None:
            _check_free(host, number)
    contract, took = served.contract, round(time.monotonic() - started, 3)
    log("opened", model=contract.name, version=contract.version, threads=threads, workers=workers, seconds=took)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="inference") as pool:
            asyncio.run(_serve(Application(served, Inference(served, pool)), host, port, grpc_port))
    finally:
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


async def _serve(application: Application, host: str, port: int, grpc_port: int | None) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.server.embed import Server

    server = Server(
        application,
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.auto,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    front = application.front
    front.started = grpc_port is None
    rpc: Rpc | None = None
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(stopping.wait())
    try:
        await _listening(serving, port)
        if grpc_port is not None:
            rpc = await _start_rpc(front, host, grpc_port)
            front.started = True
        log("ready", address=f"{host}:{port}", grpc=None if grpc_port is None else f"{host}:{grpc_port}")
        await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise Refused(Refusal.ADDRESS, f"port {port} is no longer served: {serving.exception()}")
        front.draining = True
        if not await front.drained(_GRACE_S):
            log("stopping with requests in flight", grace_s=_GRACE_S)
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

"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.application import Application
from serving.cpus import available_cpus
from serving.inference import Inference
from serving.log import log
from serving.metrics import Reading
from serving.package import Refusal, Refused, open_package
from serving.watch import Watch, watching

#: Seconds that requests in flight have to finish after SIGTERM.
_GRACE_S = 25.0


def serve(folder: Path, host: str, port: int, threads: int | None, workers: int | None) -> None:
    """Serve the package in `folder` until SIGTERM or SIGINT.

    `threads` are used by one inference, `workers` inferences run at once; both follow the CPU quota unless given.

    Raises:
        Refused: the package does not hold, or the address cannot be listened on.
    """
    started = time.monotonic()
    cpus = available_cpus()
    threads, workers = threads or cpus, workers or max(2, cpus)
    served = open_package(folder, threads)
    _check_free(host, port)
    contract, took = served.contract, round(time.monotonic() - started, 3)
    log("opened", model=contract.name, version=contract.version, threads=threads, workers=workers, seconds=took)
    try:
        with watching(served, folder) as watch, ThreadPoolExecutor(workers, thread_name_prefix="inference") as pool:
            application = Application(served, Inference(served, pool), watch.observer, watch.pages)
            watch.metrics.readings.append(
                Reading(
                    "slipway_requests_in_flight", "Requests that are being answered.", lambda: application.in_flight
                )
            )
            asyncio.run(_serve(application, watch, host, port))
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


async def _serve(application: Application, watch: Watch, host: str, port: int) -> None:
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
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(stopping.wait())
    try:
        await _listening(serving, port)
        log("ready", address=f"{host}:{port}")
        loop.run_in_executor(None, watch.warm)
        await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise Refused(Refusal.ADDRESS, f"port {port} is no longer served: {serving.exception()}")
        application.draining = True
        if not await application.drained(_GRACE_S):
            log("stopping with requests in flight", grace_s=_GRACE_S)
    finally:
        stop.cancel()
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait((serving,))


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

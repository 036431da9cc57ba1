"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.application import Application
from serving.cpus import available_cpus
from serving.log import log
from serving.package import Refusal, Refused, open_package

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
    served = open_package(folder, threads or cpus)
    try:
        with ThreadPoolExecutor(workers or max(2, cpus), thread_name_prefix="inference") as pool:
            asyncio.run(_serve(Application(served, pool), host, port, started))
    finally:
        served.runner.close()


async def _serve(application: Application, host: str, port: int, started: float) -> None:
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
    try:
        await _listening(serving, port)
        log("ready", address=f"{host}:{port}", seconds=round(time.monotonic() - started, 3))
        await asyncio.wait((serving, asyncio.ensure_future(stopping.wait())), return_when=asyncio.FIRST_COMPLETED)
        application.draining = True
        if not await application.drained(_GRACE_S):
            log("stopping with requests in flight", grace_s=_GRACE_S)
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await serving
    log("stopped")


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

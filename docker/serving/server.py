"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends with 0.
What still waits when the grace is over is refused with 503. A second signal ends it at once (`serving.stopping`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from serving.application import Application
from serving.contract import Batching
from serving.inference import Inference
from serving.log import log
from serving.package import Refusal, Refused, open_package
from serving.scheduling import scheduling
from serving.stopping import Stopping

#: Seconds to write the refusals of what still waits then.
_REFUSALS_S = 1.0


def serve(folder: Path, host: str, port: int, overrides: Batching, grace_s: float, stopping: Stopping) -> None:
    """Serve the package in `folder` until SIGTERM or SIGINT; `overrides` come before what its contract says.

    Raises:
        Refused: the package does not hold, or the address cannot be listened on.
    """
    started = time.monotonic()
    served = open_package(folder, overrides.threads)
    _check_free(host, port)
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
        asyncio.run(_serve(Application(served, inference), inference, host, port, grace_s, stopping))
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
    application: Application, inference: Inference, host: str, port: int, grace_s: float, stopping: Stopping
) -> None:
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
    asked = asyncio.Event()
    serving = asyncio.create_task(server.serve())
    stop = asyncio.create_task(asked.wait())
    try:
        await _listening(serving, port)
        stopping.on_first(partial(loop.call_soon_threadsafe, asked.set))
        log("ready", address=f"{host}:{port}")
        await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise Refused(Refusal.ADDRESS, f"port {port} is no longer served: {serving.exception()}")
        application.draining = True
        if not await application.drained(grace_s):
            log("stopping with requests in flight", grace_s=grace_s, refused=inference.close())
            await application.drained(_REFUSALS_S)
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

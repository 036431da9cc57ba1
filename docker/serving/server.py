"""The server process: opens the package, listens, and ends in order.

SIGTERM: readiness goes, new inference is refused with 503, what is in flight finishes, and the process ends with 0.
What still waits when the grace is over is refused with 503. A second signal ends it at once (`serving.stopping`).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.application import Application
from serving.contract import Batching
from serving.front import Front, draining
from serving.inference import Inference
from serving.log import log
from serving.package import Refusal, Refused, open_package
from serving.scheduling import scheduling
from serving.stopping import Stopping
from serving.watch import Watch, watching

if TYPE_CHECKING:
    from serving.rpc import Rpc

#: Seconds that a thread keeps the interpreter while others wait for it: what decodes a large request must not hold up
#: small ones, which need it several times each. Python's own 5 ms would be many times what those take.
_SWITCH_S = 0.000_1
#: Seconds that a request, once the server ends, has to arrive whole.
_UNFINISHED_S = 1.0
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
    import uvloop

    started = time.monotonic()
    sys.setswitchinterval(_SWITCH_S)
    served = open_package(folder, overrides.threads)
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
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(application, inference, address, grace_s, stopping, watch))
    finally:
        if inference.busy:
            # Native code cannot be interrupted, and what it works on must not be taken from it.
            log("stopped", working=inference.busy, seconds=round(time.monotonic() - started, 3))
            os._exit(0)
        pool.shutdown()
        served.runner.close()
    log("stopped", seconds=round(time.monotonic() - started, 3))


def _taken(host: str, port: int) -> socket.socket:
    """A socket that listens there. Whoever has the port shares it with nobody.

    Raises:
        Refused: ADDRESS.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
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
    from serving.listener import Listener

    listener = Listener(application, _taken(address.host, address.port))
    if address.grpc_port is not None:
        # gRPC would say that its port is taken in lines of its own, where the log's are.
        _taken(address.host, address.grpc_port).close()
    front = application.front
    front.started = address.grpc_port is None
    rpc: Rpc | None = None
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    stopping.listen()  # the loop has put itself there
    serving = await listener.start()
    stop = asyncio.create_task(asked.wait())
    try:
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
        loop.call_later(_UNFINISHED_S, listener.refuse_unfinished, draining())
        if not await front.drained(grace_s):
            log("stopping with requests in flight", grace_s=grace_s, refused=inference.close())
            await front.drained(_REFUSALS_S)
    finally:
        stop.cancel()
        if rpc is not None:
            await rpc.stop(_LAST_BYTES_S)
        listener.stop()
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

"""A controller that is killed with SIGKILL at any point, and another one that goes on: the same verdict.

Each case is a process of its own that kills itself where it was told to; what it leaves is on disk alone. The world
that it acts on outlives it, as a router and containers do.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.release.contracts import Phase, Release
from tasks.release.controller.back import roll_back
from tasks.release.controller.controller import Controller
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.opening import Asked
from tasks.store import Store, open_store
from tests.rehearsal import MODEL, World, candidate, controller, deployed, released, run

#: More points than any of these ways passes: the last cases kill nobody.
_AT_MOST = 120
WORSE = {deployed(2).package: 0.5}


def whole(moving: Controller, store: Store) -> Release:
    """A second package's release, from its opening to MLflow's word."""
    return released(moving, 2, store)


def withdrawn(moving: Controller, store: Store) -> Release:
    """One that a person takes back in the middle."""
    release = moving.open(candidate(2, store), Asked(by="anna"), again=True)
    while not moving.outside.router(MODEL).weight():
        release = moving.advance(release.id)
    return moving.finish(roll_back(moving, MODEL, None, "").id)


def back(moving: Controller, store: Store) -> Release:
    """What serves gives way to the package before."""
    return moving.finish(roll_back(moving, MODEL, None, "").id)


Way = Callable[[Controller, Store], Release]


def prepared(folder: Path, way: Way, errors: dict[str, float]) -> tuple[World, Store]:
    """A model that serves its first package; for the way back, its second."""
    folder.mkdir()
    world, store = World(folder), open_store(str(folder / "store"))
    moving = controller(folder, world)
    released(moving, 1, store)
    if way is back:
        released(moving, 2, store)
    world["errors"] = errors
    return world, store


def killed(work: Callable[[Callable[[str], None]], object], at: int) -> bool:
    """Do `work` in a process that is killed at its `at`-th point; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = at

        def passing(_: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(passing)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, "the work itself failed"
    return code != 0


def verdict(folder: Path, world: World) -> tuple[object, ...]:
    """All that matters of how it ended."""
    ledger = Ledger(folder / "home", MODEL)
    state = next(ledger.begun())
    serving = ledger.serving()
    assert serving is not None
    return (
        state.release.phase,
        state.release.step,
        [item.code for item in state.release.findings],
        state.followed,
        serving.current,
        serving.previous,
        serving.withdrawn,
        world.weight,
        world.serves(0),
        world.serves(99.9),
        sorted(world["running"]),
        sorted(world["kept"]),
        world["aliases"],
    )


def gone_on(folder: Path, world: World, way: Way, store: Store, *, after_reboot: bool) -> None:
    """Another process finds what is there and goes on with it."""
    if after_reboot:
        world.reboot()
    moving = controller(folder, world, "ben")
    underway = Ledger(folder / "home", MODEL).underway()
    if underway is None and not _is_begun(folder, way):
        way(moving, store)  # killed before anything was written down
        return
    if underway is None:
        moving.restore(MODEL)  # as `slipway release --resume` does where nothing goes on
    else:
        release = moving.resume(underway.release.id, decided=False)
        if way is withdrawn and release.phase is not Phase.ROLLING_BACK:
            roll_back(moving, MODEL, None, "")
        run(moving, release)
    for state in moving.unfinished(MODEL):
        moving.finish(state.release.id)


def _is_begun(folder: Path, way: Way) -> bool:
    return len(Ledger(folder / "home", MODEL).ids()) > (2 if way is back else 1)


@pytest.mark.parametrize("after_reboot", [False, True], ids=["killed", "rebooted"])
@pytest.mark.parametrize(
    ("way", "errors", "phase"),
    [
        (whole, {}, Phase.PROMOTED),
        (whole, WORSE, Phase.ROLLED_BACK),
        (withdrawn, {}, Phase.ROLLED_BACK),
        (back, {}, Phase.ROLLED_BACK),
    ],
    ids=["promoted", "worse", "taken back", "rolled back"],
)
def test_killed_anywhere_it_goes_on_to_the_same_verdict(
    tmp_path: Path, way: Way, errors: dict[str, float], phase: Phase, after_reboot: bool
) -> None:
    undisturbed, store = prepared(tmp_path / "undisturbed", way, errors)
    assert way(controller(tmp_path / "undisturbed", undisturbed), store).phase is phase
    expected = verdict(tmp_path / "undisturbed", undisturbed)
    for at in range(1, _AT_MOST):
        folder = tmp_path / str(at)
        world, store = prepared(folder, way, errors)

        def work(passing: Callable[[str], None], folder: Path = folder, world: World = world) -> None:
            way(controller(folder, world, passing=passing), open_store(str(folder / "store")))

        was_killed = killed(work, at)
        gone_on(folder, world, way, store, after_reboot=after_reboot and was_killed)
        assert verdict(folder, world) == expected, f"killed at point {at}"
        if not was_killed:
            assert at > 5, "it passes no points"
            return
    raise AssertionError(f"it passes more than {_AT_MOST} points")


def test_killed_again_and_again_it_still_comes_to_an_end(tmp_path: Path) -> None:
    world, store = prepared(tmp_path / "one", whole, {})
    folder = tmp_path / "one"

    def begin(passing: Callable[[str], None]) -> None:
        whole(controller(folder, world, passing=passing), store)

    def go_on(passing: Callable[[str], None]) -> None:
        moving = controller(folder, world, passing=passing)
        state = next(Ledger(folder / "home", MODEL).begun())
        if not state.release.phase.is_over:
            run(moving, moving.resume(state.release.id, decided=False))
        moving.finish(state.release.id)

    assert killed(begin, 4)
    for times in range(1, 200):
        if not killed(go_on, 9):  # the longest slice passes seven points, and is done again from its beginning
            assert times > 3
            break
    assert world.serves(0) == deployed(2).package
    assert next(Ledger(folder / "home", MODEL).begun()).release.phase is Phase.PROMOTED

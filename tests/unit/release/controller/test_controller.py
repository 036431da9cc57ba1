"""Releases from their beginning to their end, rehearsed: what the router sends where, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import BadInput, PlatformError, ReleaseUnderway, TrackingUnavailable
from tasks.release.contracts import Phase, Release
from tasks.release.controller.back import roll_back
from tasks.release.controller.controller import Controller
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.opening import Asked
from tasks.store import Store, open_store
from tests import samples
from tests.rehearsal import MODEL, World, candidate, controller, deployed, released, run

SERVING = [deployed(number).package for number in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def moving(tmp_path: Path, world: World) -> Controller:
    return controller(tmp_path, world)


@pytest.fixture
def ledger(moving: Controller) -> Ledger:
    return Ledger(moving.home, MODEL)


def opened(moving: Controller, number: int, store: Store, **changes: object) -> Release:
    return moving.open(candidate(number, store, **changes), Asked(by=moving.by), again=True)


def in_canary(moving: Controller, number: int, store: Store, **changes: object) -> Release:
    """A release of which users meet the new version."""
    release = opened(moving, number, store, **changes)
    while not moving.outside.router(MODEL).weight() or release.phase is not Phase.CANARY:
        release = moving.advance(release.id)
    return release


# --- the way forward ----------------------------------------------------------------------------------------------


def test_a_model_s_first_package_takes_everything_after_golden_and_shadow(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    release = released(moving, 1, store)
    assert release.phase is Phase.PROMOTED
    assert world.serves(99.9) == world.serves(0) == SERVING[1]
    assert release.shadow is not None
    serving = ledger.serving()
    assert serving is not None
    assert (serving.current, serving.previous) == (deployed(1), ())


def test_a_second_package_goes_step_by_step_and_then_serves(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    released(moving, 1, store)
    release, weights = opened(moving, 2, store), [0.0]
    while not release.phase.is_over:
        release = moving.advance(release.id)
        if world.weight != weights[-1]:
            weights.append(world.weight or 0)
    assert weights == [0, 5, 50, 100, 0]  # and then it is the stable arm itself
    assert world.serves(0) == world.serves(99.9) == SERVING[2]
    serving = ledger.serving()
    assert serving is not None
    assert (serving.current, serving.previous) == (deployed(2), (deployed(1),))


def test_the_port_of_a_model_stays(moving: Controller, store: Store, ledger: Ledger) -> None:
    released(moving, 1, store)
    first = ledger.serving()
    released(moving, 2, store)
    second = ledger.serving()
    assert first is not None
    assert second is not None
    assert first.port == second.port
    with pytest.raises(BadInput, match="users know"):
        moving.open(candidate(3, store), Asked(by="anna", port=first.port + 1), again=True)


def test_the_port_can_be_chosen_for_a_first_release(moving: Controller, store: Store, ledger: Ledger) -> None:
    release = moving.open(candidate(1, store), Asked(by="anna", port=18123), again=True)
    assert ledger.state(release.id).port == 18123


def test_the_first_look_is_taken_before_any_user_meets_the_new_version(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    from tasks.release.controller.trace import looks

    (first,) = looks(ledger.place(release.id) / "trace.jsonl")
    assert (first.step, first.weight) == (0, 0)
    assert first.canary is not None
    assert first.canary.requests == 0


def test_two_good_packages_before_the_one_that_serves_are_kept_and_one_runs(
    moving: Controller, world: World, store: Store
) -> None:
    for number in (1, 2, 3, 4):
        released(moving, number, store)
    assert world["kept"] == ["4", "3", "2"]
    assert set(world["running"]) == {SERVING[4], SERVING[3]}


def test_releasing_what_serves_already_changes_nothing(moving: Controller, store: Store, ledger: Ledger) -> None:
    release = released(moving, 1, store)
    assert opened(moving, 1, store).id == release.id
    assert len(ledger.ids()) == 1


# --- gates before the first user ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["unattested", "wrong", "does_not_start"])
def test_what_a_gate_refuses_no_user_meets(moving: Controller, world: World, store: Store, gate: str) -> None:
    released(moving, 1, store)
    world[gate] = [SERVING[2]]
    release = released(moving, 2, store)
    assert release.phase is Phase.REFUSED
    assert release.findings
    assert world.serves(0) == SERVING[1]
    assert world["running"] == [SERVING[1]]


@pytest.mark.parametrize("verdict", ["failed", "inconclusive"])
def test_a_shadow_that_does_not_pass_refuses(moving: Controller, world: World, store: Store, verdict: str) -> None:
    released(moving, 1, store)
    world["shadow"] = verdict
    release = released(moving, 2, store)
    assert (release.phase, [item.code for item in release.findings]) == (Phase.REFUSED, ["SHADOW_DIFFERS"])
    assert world.serves(0) == SERVING[1]


def test_a_first_package_that_is_refused_leaves_no_router(moving: Controller, world: World, store: Store) -> None:
    world["wrong"] = [SERVING[1]]
    assert released(moving, 1, store).phase is Phase.REFUSED
    assert world["route"] is None
    assert world["running"] == []


def test_without_approval_no_user_meets_it_and_with_it_the_release_goes_on(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    release = run(moving, opened(moving, 2, store, approval=True))
    assert (release.phase, world.weight) == (Phase.SHADOW, 0)
    assert release.shadow is not None
    moving.approve(release.id)
    assert run(moving, release).phase is Phase.PROMOTED


def test_who_does_not_agree_ends_it(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    release = run(moving, opened(moving, 2, store, approval=True))
    refused = moving.refuse(release.id, samples.finding("RELEASE_REJECTED"))
    assert (refused.phase, refused.findings[0].code) == (Phase.REFUSED, "RELEASE_REJECTED")
    assert world.serves(0) == SERVING[1]


# --- one at a time ------------------------------------------------------------------------------------------------


def test_a_second_release_is_refused_and_told_which_since_when_and_by_whom(moving: Controller, store: Store) -> None:
    released(moving, 1, store)
    opened(moving, 2, store)
    with pytest.raises(ReleaseUnderway) as caught:
        opened(moving, 3, store)
    for said in (deployed(2).package[7:19], "2026-11-24 16:00", "by anna", "preparing", "--resume digits"):
        assert said in str(caught.value)


def test_the_same_package_again_is_the_release_that_goes_on(moving: Controller, store: Store) -> None:
    released(moving, 1, store)
    release = opened(moving, 2, store)
    assert opened(moving, 2, store).id == release.id
    with pytest.raises(ReleaseUnderway):
        moving.open(candidate(2, store), Asked(by="ben"), again=False)


# --- judged -------------------------------------------------------------------------------------------------------


def test_a_version_that_fails_is_rolled_back_and_the_stable_one_serves(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    released(moving, 1, store)
    world["errors"] = {SERVING[2]: 0.5}
    release = released(moving, 2, store)
    assert (release.phase, [item.code for item in release.findings]) == (Phase.ROLLED_BACK, ["PLAIN_ERRORS"])
    assert world.serves(0) == SERVING[1]
    assert world["running"] == [SERVING[1]]
    serving = ledger.serving()
    assert serving is not None
    assert serving.current == deployed(1)


def test_a_decision_reaches_the_router_in_the_slice_that_decides(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    world["errors"] = {SERVING[2]: 0.9}
    while release.phase is Phase.CANARY:
        release = moving.advance(release.id)
    assert (release.phase, world.weight) == (Phase.ROLLING_BACK, 0)


def test_what_does_not_decide_is_held_without_users_until_a_person_goes_on(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    release = run(moving, opened(moving, 2, store, min_requests=10_000))
    assert (release.phase, world.weight) == (Phase.HELD, 0)
    assert SERVING[2] in world["running"]
    assert moving.resume(release.id, decided=False).phase is Phase.HELD
    assert moving.resume(release.id).phase is Phase.CANARY
    moving.advance(release.id)
    assert world.weight == 5
    assert run(moving, release).phase is Phase.HELD  # it still does not decide, and had its time again


def test_an_arm_that_cannot_be_read_never_promotes(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    world["silent"] = ["canary"]
    assert run(moving, opened(moving, 2, store)).phase is Phase.HELD


# --- what may happen meanwhile ------------------------------------------------------------------------------------


def test_nobody_watches_so_no_user_meets_it_and_another_goes_on(
    moving: Controller, world: World, store: Store, tmp_path: Path
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    left = moving.leave(release.id)
    assert (left.phase, world.weight) == (Phase.HELD, 0)
    assert [item.code for item in left.findings] == ["RELEASE_UNWATCHED"]
    ben = controller(tmp_path, world, "ben")
    assert ben.resume(release.id, decided=False).phase is Phase.CANARY
    assert run(ben, release).phase is Phase.PROMOTED


def test_after_a_reboot_servers_and_router_are_there_again_and_the_evidence_stays(
    moving: Controller, world: World, store: Store, tmp_path: Path
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    world.reboot()
    ben = controller(tmp_path, world, "ben")
    ben.advance(release.id)
    assert set(world["running"]) == {SERVING[1], SERVING[2]}
    assert world.weight == 5
    assert run(ben, release).phase is Phase.PROMOTED


def test_a_router_that_forgot_the_weight_has_it_again_after_the_next_look(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    world["route"] = {**world["route"], "weight": 0}
    moving.advance(release.id)
    assert world.weight == 5


def test_a_new_server_that_does_not_come_back_is_rolled_back(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    world["does_not_start"], world["silent"] = [SERVING[2]], ["canary"]
    release = run(moving, release)
    assert (release.phase, release.findings[0].code) == (Phase.ROLLED_BACK, "RELEASE_ARM_LOST")


def test_a_stable_server_that_does_not_come_back_decides_nothing(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    world["does_not_start"], world["silent"] = [SERVING[1]], ["stable"]
    moving.advance(release.id)
    with pytest.raises(PlatformError):
        moving.advance(release.id)
    assert moving.ledger(release.id).state(release.id).release.phase is Phase.CANARY


def test_a_new_package_that_answers_users_wrongly_at_the_end_is_taken_back(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    released(moving, 1, store)
    release = opened(moving, 2, store)
    while release.phase is not Phase.PROMOTING:
        release = moving.advance(release.id)
    world["wrong"] = [SERVING[2]]
    release = run(moving, release)
    assert (release.phase, release.findings[0].code) == (Phase.ROLLED_BACK, "RELEASE_GOLDEN_DIFFERS")
    assert world.serves(0) == SERVING[1]
    serving = ledger.serving()
    assert serving is not None
    assert serving.current == deployed(1)


# --- the way back -------------------------------------------------------------------------------------------------


def test_the_package_before_comes_back_whole(moving: Controller, world: World, store: Store, ledger: Ledger) -> None:
    released(moving, 1, store)
    released(moving, 2, store)
    back = roll_back(moving, MODEL, None, "answers look odd")
    assert (back.phase, back.stable, back.candidate) == (Phase.ROLLED_BACK, deployed(1), deployed(2))
    assert world.serves(0) == world.serves(99.9) == SERVING[1]
    serving = ledger.serving()
    assert serving is not None
    assert (serving.current, serving.previous, serving.withdrawn) == (deployed(1), (), deployed(2))
    assert "anna asked for the package before: answers look odd" in back.findings[0].message


def test_asking_twice_for_the_package_before_does_not_go_further_back(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    for number in (1, 2, 3):
        released(moving, number, store)
    first = roll_back(moving, MODEL, None, "")
    assert roll_back(moving, MODEL, None, "").id == first.id
    assert world.serves(0) == SERVING[2]


def test_a_package_that_served_comes_back_by_its_version_or_digest(
    moving: Controller, world: World, store: Store
) -> None:
    for number in (1, 2, 3, 4):
        released(moving, number, store)
    roll_back(moving, MODEL, "2", "")
    assert world.serves(0) == SERVING[2]
    roll_back(moving, MODEL, SERVING[1][7:19], "")
    assert world.serves(0) == SERVING[1]


def test_what_never_served_does_not_come_back(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    with pytest.raises(BadInput, match="ever served"):
        roll_back(moving, MODEL, "7", "")
    assert world.serves(0) == SERVING[1]


def test_there_is_nothing_before_the_first_package(moving: Controller, store: Store) -> None:
    released(moving, 1, store)
    with pytest.raises(BadInput, match="first one that served"):
        roll_back(moving, MODEL, None, "")


def test_a_model_that_was_never_released_has_no_way_back(moving: Controller) -> None:
    with pytest.raises(BadInput, match="never released"):
        roll_back(moving, MODEL, None, "")


def test_a_rollback_takes_a_release_over_and_its_process_sees_that(
    moving: Controller, world: World, store: Store, tmp_path: Path
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    ben = controller(tmp_path, world, "ben")
    back = roll_back(ben, MODEL, None, "a user complained")
    assert (back.id, back.phase) == (release.id, Phase.ROLLED_BACK)
    seen = moving.advance(release.id)
    assert (seen.phase, seen.findings[0].code) == (Phase.ROLLED_BACK, "RELEASE_ROLLBACK_ASKED")
    assert world.serves(0) == SERVING[1]


@pytest.mark.parametrize("where", ["candidate started", "shadowed", "before prepared"])
def test_what_a_slice_found_out_does_not_count_after_a_rollback(
    tmp_path: Path, world: World, store: Store, where: str
) -> None:
    released(controller(tmp_path, world), 1, store)
    ben = controller(tmp_path, world, "ben")

    def passing(place: str) -> None:
        if place == where and place != "before prepared":
            roll_back(ben, MODEL, None, "")

    moving = controller(tmp_path, world, passing=passing)
    release = opened(moving, 2, store)
    if where == "before prepared":
        roll_back(ben, MODEL, None, "")
    release = run(moving, release)
    assert release.phase is Phase.ROLLED_BACK
    assert world.serves(0) == SERVING[1]
    assert world.weight == 0


def test_a_damaged_journal_does_not_keep_anybody_from_the_way_back(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    released(moving, 1, store)
    release = in_canary(moving, 2, store)
    journal = ledger.place(release.id) / "journal.jsonl"
    journal.write_bytes(b"not a journal\n" + journal.read_bytes())
    roll_back(moving, MODEL, None, "")
    assert world.serves(0) == world.serves(4) == SERVING[1]
    assert journal.with_name("journal.damaged").exists()


def test_a_way_back_after_a_reboot_starts_what_it_needs(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    released(moving, 2, store)
    world.reboot()
    roll_back(moving, MODEL, None, "")
    assert world.serves(0) == SERVING[1]


def test_a_package_that_is_back_and_answers_otherwise_is_said_so(
    moving: Controller, world: World, store: Store
) -> None:
    released(moving, 1, store)
    released(moving, 2, store)
    world["wrong"] = [SERVING[1]]
    back = roll_back(moving, MODEL, None, "")
    assert [item.code for item in back.findings] == ["RELEASE_ROLLBACK_ASKED", "RELEASE_GOLDEN_DIFFERS"]


# --- afterwards ---------------------------------------------------------------------------------------------------


def test_mlflow_follows_what_serves(moving: Controller, world: World, store: Store) -> None:
    released(moving, 1, store)
    released(moving, 2, store)
    assert world["aliases"] == {"champion": "2"}
    roll_back(moving, MODEL, None, "")
    moving.finish(moving.unfinished(MODEL)[0].release.id)
    assert world["aliases"] == {"champion": "1"}


def test_mlflow_is_away_and_stops_nothing_and_is_caught_up(
    moving: Controller, world: World, store: Store, ledger: Ledger
) -> None:
    world["mlflow"] = False
    release = run(moving, opened(moving, 1, store))
    assert release.phase is Phase.PROMOTED
    with pytest.raises(TrackingUnavailable):
        moving.finish(release.id)
    assert [state.release.id for state in moving.unfinished(MODEL)] == [release.id]
    world["mlflow"] = True
    assert moving.finish(release.id).report is not None
    assert moving.unfinished(MODEL) == ()


def test_finishing_twice_changes_nothing(moving: Controller, store: Store, ledger: Ledger) -> None:
    release = released(moving, 1, store)
    before = ledger.entries(release.id)
    moving.finish(release.id)
    assert ledger.entries(release.id) == before

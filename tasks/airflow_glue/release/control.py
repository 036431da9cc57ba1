"""What Airflow's tasks ask of the controller. Each call is idempotent: whoever was killed asks again.

Airflow keeps no state of a release. A task knows its release's id; everything else is in the controller's journal, so
that another try, another process or the command line goes on with the same evidence.
"""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from tasks.contracts import Contract, Finding
from tasks.errors import BadInput
from tasks.release.contracts import Release
from tasks.settings import Settings


class Asked(Contract):
    """What a run is to release."""

    model: str
    version: str | None = Field(None, description="of the registered model, or a package's digest; none is the newest")
    port: int | None = Field(None, gt=0, lt=65536, description="where users ask, for a model that has no router yet")
    recorded: str | None = Field(None, description="folder of recorded requests for shadow; none is golden samples")

    @property
    def name(self) -> str:
        """How the controller is told what is meant: MODEL, MODEL@VERSION, or a digest by itself."""
        if self.version is None:
            return self.model
        return f"{self.model}@{self.version}" if self.version.isdecimal() else self.version


class Releases(Protocol):
    """The controller, as far as Airflow needs it. All of them raise PlatformError where the ground gives way."""

    def open(self, asked: Asked) -> Release:
        """Begin a release; one of the same package that is not over yet is gone on with.

        Raises:
            GateBlocked: the package is not to be released, or another release of the model is not over yet.
            BadInput: there is no such model or version.
        """

    def look(self, release_id: str) -> Release:
        """Take one look and, where the evidence says so, one step. Waits in shadow for approval."""

    def approve(self, release_id: str, by: str) -> Release:
        """`by` has seen shadow's evidence and agrees."""

    def refuse(self, release_id: str, by: str, why: Finding) -> Release:
        """`by` does not, or did not answer in time: the stable version keeps all traffic."""

    def resume(self, release_id: str, *, decided: bool) -> Release:
        """Go on. One that is held by its evidence goes on only where a person has `decided` so."""

    def leave(self, release_id: str) -> Release:
        """Nobody watches it from now on: no user meets the canary until it is resumed."""

    def back(self, model: str, reason: str) -> Release:
        """The previous package back, verified; a release that goes on is ended by it."""

    def finish(self, release_id: str) -> Release:
        """What follows once it is over: the page for people, MLflow's aliases, the audit trail. Else as it stands.

        Raises:
            TrackingUnavailable: MLflow does not answer; a later call catches up.
        """


def releases(by: str) -> Releases:
    """The real controller, acting for `by`."""
    return _Controller(Settings.from_environment(), by)


class _Controller:
    """Slipway's own (`tasks.release.controller`), which is imported when it is needed: a DAG file is parsed often."""

    def __init__(self, settings: Settings, by: str) -> None:
        self._settings, self._by = settings, by

    def open(self, asked: Asked) -> Release:
        from tasks.release import controller

        self._refuse_another_models(asked)
        controller.catch_up(asked.model, self._settings, by=self._by)
        return controller.open_release(
            asked.name, self._settings, by=self._by, port=asked.port, recorded=asked.recorded, again=True
        )

    def look(self, release_id: str) -> Release:
        from tasks.release import controller

        return controller.advance(release_id, self._settings, by=self._by)

    def approve(self, release_id: str, by: str) -> Release:
        from tasks.release import controller

        return controller.approve(release_id, self._settings, by=by)

    def refuse(self, release_id: str, by: str, why: Finding) -> Release:
        from tasks.release import controller

        return controller.refuse(release_id, why, self._settings, by=by)

    def resume(self, release_id: str, *, decided: bool) -> Release:
        from tasks.release import controller

        return controller.resume(release_id, self._settings, by=self._by, decided=decided)

    def leave(self, release_id: str) -> Release:
        from tasks.release import controller

        return controller.leave(release_id, self._settings, by=self._by)

    def back(self, model: str, reason: str) -> Release:
        from tasks.release import controller

        return controller.rollback(model, self._settings, by=self._by, reason=reason)

    def finish(self, release_id: str) -> Release:
        from tasks.release import controller

        return controller.finish(release_id, self._settings, by=self._by)

    def _refuse_another_models(self, asked: Asked) -> None:
        """A digest names its package by itself: it must be one of the model that was filled in beside it."""
        from tasks.lineage import find_package, packages
        from tasks.store import open_store

        if asked.name != asked.version:
            return
        known = [item.package for item in packages(open_store(self._settings.store_uri))]
        if (found := find_package(known, asked.name)).name != asked.model:
            raise BadInput(f"{asked.version} is a package of {found.name}, not of {asked.model}: nothing was released")

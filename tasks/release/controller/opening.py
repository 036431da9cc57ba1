"""What a person names → a release that can begin, or a sentence that says why not.

In: `digits`, `digits@3` (the version of the registered model in MLflow), the first digits of a package's digest, or a
tuned image by its name; the store; the model's ledger. Out: the first entry of a journal.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tasks.contracts import Package, Verdict
from tasks.errors import BadInput, GateBlocked, ReleaseUnderway
from tasks.lineage import Recorded, find_image, find_package, find_tuned, spec_of, unknown_model
from tasks.release.contracts import Deployed, Phase, Plan, Release
from tasks.release.controller.events import Opened, State
from tasks.release.controller.findings import asked_back
from tasks.release.controller.ledger import Ledger
from tasks.release.controller.serving import Serving
from tasks.spec import ModelSpec
from tasks.store import Store


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package that is to serve: what was packaged, what was asked for, and which image."""

    package: Package
    spec: ModelSpec
    deployed: Deployed


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a release, and how."""

    by: str
    approved_by: str | None = None
    port: int | None = None
    recorded: str | None = None


def find_candidate(name: str, known: Sequence[Recorded], store: Store) -> Candidate:
    """The package that is meant, with the spec that says how it is released.

    Raises:
        BadInput: there is no such package, or it was made before specs were kept.
        GateBlocked: it did not pass.
    """
    if (tuned := find_tuned(known, name)) is not None:
        package, image = tuned
        format_, digest, reference = image.format, image.digest, image.reference
    else:
        package = _package(name, known)
        if package.verdict is not Verdict.PASSED or package.serving_format is None:
            raise GateBlocked(
                f"the package {package.digest} of {package.name} is {package.verdict}, and only what passed is "
                f"released: `slipway status {package.name}` says what is in the way; an older one goes by its "
                "digest or version"
            )
        _, serving = find_image([package], package.digest)
        format_, digest, reference = serving.format, serving.digest, serving.reference
    spec = spec_of(package, store)
    if spec is None:
        raise BadInput(
            f"the package {package.digest} of {package.name} was made before Slipway kept specs, so nobody knows how "
            "to release it: run `slipway package` again, which reuses every stage"
        )
    record = next(item.record for item in known if item.package is package)
    version = None if record is None else record.model_version
    return Candidate(
        package,
        spec,
        Deployed(package=package.digest, image=digest, reference=reference, format=format_, version=version),
    )


def _package(name: str, known: Sequence[Recorded]) -> Package:
    model, at, version = name.partition("@")
    if not at:
        return find_package([item.package for item in known], name)
    of_model = [item for item in known if item.package.name == model]
    if not of_model:
        raise BadInput(unknown_model(model, sorted({item.package.name for item in known})))
    for item in of_model:
        if item.record is not None and item.record.model_version == version:
            return item.package
    versions = sorted(item.record.model_version for item in of_model if item.record and item.record.model_version)
    raise BadInput(
        f"{model} has no version {version} that this store knows: there are {', '.join(versions) or 'none in MLflow'}; "
        f"{model}@VERSION is the registered model's version, a package's digest goes by itself"
    )


def existing(deployed: Deployed, ledger: Ledger, *, again: bool) -> Release | None:
    """The release that makes another one of this package needless: the one that goes on with it (`again`), or the one
    by which it serves."""
    underway, serving = ledger.underway(), ledger.serving()
    if underway is not None:
        return underway.release if again and underway.release.candidate.identity == deployed.identity else None
    if serving is None or serving.current.identity != deployed.identity:
        return None
    promoted = (state.release for state in ledger.begun() if state.release.phase is Phase.PROMOTED)
    return next((release for release in promoted if release.candidate.identity == deployed.identity), None)


def begin(candidate: Candidate, asked: Asked, ledger: Ledger, now: datetime) -> State:
    """Write down that a release begins. Under the ledger's lock.

    Raises:
        ReleaseUnderway: another release of the model is not over.
        BadInput: another port than the model's, or none that is free.
    """
    refuse_while_underway(ledger)
    now = later_than_all(ledger, now)
    spec, serving = candidate.spec.release, ledger.serving()
    release = Release(
        id=release_id(ledger.model, now, candidate.deployed),
        model=ledger.model,
        candidate=candidate.deployed,
        stable=None if serving is None else serving.current,
        plan=Plan.of(spec, candidate.spec.serving.p99_ms),
        shadow_spec=spec.shadow,
        split_by=spec.split_by,
        phase=Phase.PREPARING,
        started_at=now,
        started_by=asked.by,
        changed_at=now,
    )
    opened = Opened(
        release=release,
        port=_port(asked.port, serving),
        approval=spec.approval,
        approved_by=asked.approved_by,
        recorded=asked.recorded,
    )
    return ledger.begin(opened, release, asked.by)


def begin_rollback(to: Deployed, ledger: Ledger, serving: Serving, by: str, reason: str, now: datetime) -> State:
    """Write down that what serves gives way to `to`, which served before it. Under the ledger's lock, with no release
    underway."""
    last = next(state.release for state in ledger.begun())  # what serves was released
    now = later_than_all(ledger, now)
    release = Release(
        id=release_id(ledger.model, now, to),
        model=ledger.model,
        candidate=serving.current,
        stable=to,
        plan=last.plan,
        split_by=serving.split_by,
        phase=Phase.ROLLING_BACK,
        started_at=now,
        started_by=by,
        changed_at=now,
        findings=(asked_back(by, reason),),
    )
    return ledger.begin(Opened(release=release, port=serving.port), release, by)


def target_of(to: str | None, serving: Serving, served: Sequence[Deployed]) -> Deployed:
    """The package to go back to: the one before, or the one that is named by version or digest and served before.

    Raises:
        BadInput: there is none.
    """
    if to is None:
        if not serving.previous:
            raise BadInput(
                f"{serving.model} has no package to go back to: {serving.current.package} is the first one that served"
            )
        return serving.previous[0]
    first = to.removeprefix("sha256:")
    for item in (serving.current, *serving.previous, *served):
        by_digest = len(first) >= _SHORTEST and any(d.removeprefix("sha256:").startswith(first) for d in item.identity)
        if by_digest or to in {item.version, item.reference}:
            return item
    names = ", ".join(_name(item) for item in dict.fromkeys((serving.current, *serving.previous, *served)))
    raise BadInput(
        f"no package {to} of {serving.model} ever served: those that did are {names}; any other one has to be released"
    )


#: As elsewhere (`tasks.lineage.named`): fewer digits of a digest are a typing mistake.
_SHORTEST = 6


def refuse_while_underway(ledger: Ledger) -> None:
    """Raises:
    ReleaseUnderway: a release of the model is not over; says which, since when, and by whom.
    """
    state = ledger.underway()
    if state is None:
        return
    release = state.release
    how = "a process of this machine watches it" if ledger.is_watched else "no process of this machine watches it"
    raise ReleaseUnderway(
        f"{ledger.model} is being released already: {_name(release.candidate)}, since "
        f"{release.started_at:%Y-%m-%d %H:%M:%S} UTC by {release.started_by}, now {release.phase} ({how}). "
        f"`slipway status {ledger.model}` shows it, `slipway release --resume {ledger.model}` goes on with it, "
        f"`slipway rollback {ledger.model}` ends it"
    )


def release_id(model: str, now: datetime, deployed: Deployed) -> str:
    """Sorts by time within a model."""
    moment = now.astimezone(UTC)
    milliseconds = moment.microsecond // 1000
    return f"{model}-{moment:%Y%m%dT%H%M%S}{milliseconds:03}Z-{deployed.package.removeprefix('sha256:')[:8]}"


def later_than_all(ledger: Ledger, now: datetime) -> datetime:
    """`now`, or a moment after the latest release where the machine's clock was set back: they sort by time."""
    latest = next(ledger.begun(), None)
    return now if latest is None else max(now, latest.release.started_at + timedelta(milliseconds=1))


def _port(asked: int | None, serving: Serving | None) -> int:
    if serving is not None:
        if asked not in {None, serving.port}:
            raise BadInput(
                f"{serving.model} answers on port {serving.port}, which its users know: --port {asked} is for a "
                "model's first release"
            )
        return serving.port
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", asked or 0))
        except OSError as error:
            raise BadInput(f"port {asked} of 127.0.0.1 is not free ({error.strerror}): give another --port") from error
        return int(probe.getsockname()[1])


def _name(deployed: Deployed) -> str:
    version = "" if deployed.version is None else f"version {deployed.version}, "
    return f"{deployed.package.removeprefix('sha256:')[:12]} ({version}{deployed.reference})"

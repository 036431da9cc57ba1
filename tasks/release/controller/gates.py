"""The two gates that are the controller's own: whether a package's evidence holds, and whether its server answers as
the model that was trained.

In: the store, the engine, an address. Out: findings; nothing found is a pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.preprocess import raw_signature
from tasks.attestation import attestation_of, public_key, verify, verify_stored
from tasks.contracts import Finding, Package, TunedImage, Verdict
from tasks.image.engine import Engine
from tasks.lineage import Recorded, packages, spec_of
from tasks.load.client import Address, Broken, Connection, Unanswered, post
from tasks.release.contracts import Deployed, Endpoint, Release
from tasks.release.controller import findings
from tasks.release.controller.protocols import GoldenAnswers
from tasks.settings import Settings
from tasks.smoke.golden import GoldenSamples, NoGolden, batch_sizes, read_golden
from tasks.spec import ModelSpec
from tasks.store import Store
from tasks.workspace import scratch

#: Golden rows that are asked one by one, before the batches: enough to meet each kind of row that parity kept, and few
#: enough that a way back is verified in a moment.
_ONE_BY_ONE = 16
#: Seconds for one answer. A way back is to be verified within ten, whatever happens.
_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """See `tasks.release.controller.protocols.Attested`."""

    settings: Settings
    store: Store
    engine: Engine

    def __call__(self, release: Release) -> tuple[Finding, ...]:
        deployed = release.candidate
        recorded = find(deployed, self.store)
        if recorded is None:
            return (findings.no_package(deployed),)
        key = public_key(self.settings)
        tuned = next((item for item in recorded.tuned if item.digest == deployed.image), None)
        package = recorded.package
        if tuned is None:
            report = verify(package, attestation_of(package.digest, self.store), key)
        else:
            report = verify_stored(tuned, package, self.store, key, attestation_of(tuned.digest, self.store))
        blocking = tuple(item for item in report.findings if item.verdict is not Verdict.PASSED)
        return (*blocking, *self._image(deployed, package, tuned))

    def _image(self, deployed: Deployed, package: Package, tuned: TunedImage | None) -> Iterator[Finding]:
        """Whether the engine has the image that was attested: its digest is that of all that is in it."""
        attested = {image.digest for image in package.images} if tuned is None else {tuned.digest}
        found = self.engine.find_image(deployed.image)
        if deployed.image not in attested or found is None or found.id != deployed.image:
            named = self.engine.find_image(deployed.reference)
            yield findings.image_differs(deployed, None if named is None else named.id)


@dataclass(frozen=True, slots=True)
class StoredGolden:
    """See `tasks.release.controller.protocols.Golden`."""

    settings: Settings
    store: Store

    def __call__(self, model: str, deployed: Deployed, endpoint: Endpoint) -> GoldenAnswers:
        recorded = find(deployed, self.store)
        spec = None if recorded is None else spec_of(recorded.package, self.store)
        if recorded is None or spec is None:
            return GoldenAnswers(findings=(findings.no_package(deployed),))
        try:
            with scratch(self.settings.work) as work:
                parity = next(item for item in recorded.package.parity if item.format == deployed.format)
                raw = raw_signature(spec.signature, spec.preprocess)
                samples = read_golden(parity, raw, self.store, work)
        except (NoGolden, StopIteration) as error:
            return GoldenAnswers(findings=(findings.golden_differs(deployed, str(error) or "there are none", 0),))
        return ask(samples, spec, deployed, endpoint)


def ask(samples: GoldenSamples, spec: ModelSpec, deployed: Deployed, endpoint: Endpoint) -> GoldenAnswers:
    """Ask the golden rows one by one, then in batches; the first wrong answer ends it."""
    sizes = batch_sizes(samples.raw, spec.serving.max_batch)
    asked = [(start, sizes[0]) for start in range(min(samples.rows, _ONE_BY_ONE))] + [(0, size) for size in sizes[1:]]
    rows = 0
    with Connection(Address(endpoint.host, endpoint.port), _ANSWER_S) as connection:
        for start, batch in asked:
            sample = samples.sample(start, batch)
            message = post(f"/v2/models/{spec.name}/infer", sample.body.content, sample.body.json_bytes)
            try:
                reply = connection.request(message)
            except (Unanswered, Broken) as error:
                complaint: str | None = str(error)
            else:
                said = reply.body[:200].decode(errors="replace")
                complaint = (
                    samples.complaint(reply, sample.expected) if reply.status == 200 else f"{reply.status} {said}"
                )
            if complaint is not None:
                where = f"{batch} rows from row {start} on at {endpoint.host}:{endpoint.port}: {complaint}"
                return GoldenAnswers(rows=rows, findings=(findings.golden_differs(deployed, where, rows),))
            rows += batch
    return GoldenAnswers(rows=rows)


def find(deployed: Deployed, store: Store) -> Recorded | None:
    """The package that is deployed, as the store knows it."""
    return next((item for item in packages(store) if item.package.digest == deployed.package), None)

"""A package's evidence as a table: each format on each instance type, with verdict, reasons and figures. Pure.

A cell is `passed` only where everything was proven: export, parity, an image, and smoke of exactly that image on
exactly that type, with every processor that the type may have. A smoke report of an earlier version that passed while a
processor could not be tried is `inconclusive` here: the scheduler may pick that one.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from tasks.contracts import (
    Capacity,
    Contract,
    Digest,
    Finding,
    Image,
    Package,
    ProcessorProof,
    Report,
    SmokeFigures,
    SmokeReport,
    Verdict,
)
from tasks.figures import amount, figure
from tasks.placement.prices import HourlyPrice

#: Findings of smoke that leave a type unproven, also as the remarks that they were: a processor was never tried.
LEAVES_UNPROVEN = frozenset({"SMOKE_INSTRUCTION_SET_UNPROVEN"})
#: The remark that says with how many vCPUs a type was really tried, in its evidence.
_CAPPED = "SMOKE_CPUS_CAPPED"

_GIB = 2**30
_SECONDS_PER_HOUR = 3600


class Reason(Contract):
    """Why a cell is not proven."""

    code: str = Field(description="of the finding, e.g. SMOKE_LATENCY; or the gate that was not reached")
    message: str


class Cell(Contract):
    """One format on one instance type. Figures are those of smoke; `None` where it did not get that far."""

    format: str
    instance_type: str
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    remarks: tuple[str, ...] = Field((), description="codes of findings that block nothing")
    vcpus: float | None = None
    tried_vcpus: float | None = Field(None, description="as many of them as smoke's host could give")
    memory_bytes: int | None = None
    figures: SmokeFigures | None = None
    capacity: Capacity | None = None
    processors: tuple[ProcessorProof, ...] = Field((), description="how each that the type may have was tried")
    price: HourlyPrice | None = None

    @property
    def is_proven(self) -> bool:
        return self.verdict is Verdict.PASSED

    @property
    def replicas(self) -> int:
        """How many of them one machine bears side by side; one where that was not measured."""
        return max(1, (self.capacity.replicas if self.capacity else None) or 1)

    @property
    def rate(self) -> str | None:
        """The measured rate of one replica with the p99 at that rate; apart, what a machine bears by reckoning."""
        if self.capacity is None or not self.capacity.max_rate_rps:
            return None
        p99 = self.capacity.p99_ms
        at = "" if p99 is None else f" at a p99 of {figure(p99)} ms"
        more = f"; {self.replicas} replicas: {amount(self.rate_rps)}/s by reckoning" if self.replicas > 1 else ""
        return f"{amount(self.capacity.max_rate_rps)} requests/s{at}{more}"

    @property
    def rate_rps(self) -> float | None:
        """The highest rate within the objective that one machine bears, where it was measured: that of one replica on
        its own, times as many as have the CPUs that it used and the memory that it needs."""
        rate = self.capacity.max_rate_rps if self.capacity else None
        return rate * self.replicas if rate else None

    @property
    def needed_bytes(self) -> int | None:
        """What the image needs under load: the bisected memory, or the highest use that was seen."""
        bisected = self.capacity.smallest_memory_bytes if self.capacity else None
        peak = self.figures.peak_memory_bytes if self.figures else None
        return max((bytes_ for bytes_ in (bisected, peak) if bytes_), default=None)

    @property
    def price_per_million(self) -> float | None:
        """What a million requests cost at the highest rate, in the price's currency."""
        if self.price is None or self.rate_rps is None:
            return None
        return self.price.amount / (self.rate_rps * _SECONDS_PER_HOUR) * 1e6

    @property
    def rps_per_vcpu(self) -> float | None:
        """Of the vCPUs that the rate is of: the type's, or as many of them as smoke's host had for one replica."""
        counted = self.capacity.replicas if self.capacity else None
        vcpus = self.vcpus if counted else self.tried_vcpus
        return self.rate_rps / vcpus if self.rate_rps and vcpus else None

    @property
    def rps_per_gib(self) -> float | None:
        return self.rate_rps / (self.memory_bytes / _GIB) if self.rate_rps and self.memory_bytes else None


class Drop(Contract):
    """How much worse a format is than the source model by one task metric; negative when it is better."""

    metric: str
    value: float


class Matrix(Contract):
    """All cells of a package, by instance type and then by format, as they were asked for."""

    package: Digest
    name: str
    formats: tuple[str, ...]
    instance_types: tuple[str, ...]
    cells: tuple[Cell, ...]
    drops: dict[str, tuple[Drop, ...]] = Field(default_factory=dict, description="format → its parity's metrics")

    def cell(self, format: str, instance_type: str) -> Cell:
        """The cell of that format and type, which the package asked for."""
        return next(cell for cell in self.cells if (cell.format, cell.instance_type) == (format, instance_type))

    def proven(self, format: str | None = None) -> tuple[Cell, ...]:
        """Proven cells, of one format or of all."""
        return tuple(cell for cell in self.cells if cell.is_proven and format in {None, cell.format})


def matrix_of(package: Package, prices: Mapping[str, HourlyPrice]) -> Matrix:
    """The package's evidence, cell by cell."""
    types, formats = package.inputs.instance_types, package.inputs.formats
    return Matrix(
        package=package.digest,
        name=package.name,
        formats=formats,
        instance_types=types,
        cells=tuple(_cell(package, name, kind, prices.get(kind)) for kind in types for name in formats),
        drops={
            report.format: tuple(
                Drop(metric=metric.name, value=metric.drop) for metric in report.metrics if metric.drop is not None
            )
            for report in package.parity
        },
    )


def _cell(package: Package, name: str, kind: str, price: HourlyPrice | None) -> Cell:
    smoked = next((each for each in package.smoke if (each.format, each.instance_type) == (name, kind)), None)
    verdict, reasons = _standing(package, name, smoked)
    bare = Cell(format=name, instance_type=kind, verdict=verdict, reasons=reasons, price=price)
    if smoked is None:
        return bare
    return bare.model_copy(
        update={
            "remarks": tuple(dict.fromkeys(each.code for each in smoked.findings if each.verdict is Verdict.PASSED)),
            "vcpus": smoked.vcpus,
            "tried_vcpus": _tried_vcpus(smoked),
            "memory_bytes": smoked.memory_bytes,
            "figures": smoked.figures,
            "capacity": smoked.capacity,
            "processors": smoked.processors,
        }
    )


def _standing(package: Package, name: str, smoked: SmokeReport | None) -> tuple[Verdict, tuple[Reason, ...]]:
    """The first gate that is not passed and what it said; evidence that is missing is inconclusive."""
    quality = package.artifact.evaluation.quality
    exported = next((report for report in package.exports if report.format == name), None)
    compared = next((report for report in package.parity if report.format == name), None)
    gates: tuple[tuple[str, Report | None], ...] = (("data", quality), ("export", exported), ("parity", compared))
    for gate, report in gates:
        if report is None:
            return Verdict.INCONCLUSIVE, (Reason(code=gate, message=f"the {gate} gate was not reached"),)
        if report.verdict is not Verdict.PASSED:
            return report.verdict, _reasons(report.verdict, report.findings, f"the {gate} gate is {report.verdict}")
    image = next((image for image in package.images if image.format == name), None)
    if smoked is None or image is None:
        missing = "image" if image is None else "smoke"
        return Verdict.INCONCLUSIVE, (Reason(code=missing, message=f"the stage {missing} was not reached"),)
    return _smoked(smoked, image)


def _smoked(smoked: SmokeReport, image: Image) -> tuple[Verdict, tuple[Reason, ...]]:
    if smoked.image_digest != image.digest:
        return Verdict.INCONCLUSIVE, (Reason(code="smoke", message="smoke tried another image than the package's"),)
    if smoked.verdict is not Verdict.PASSED:
        return smoked.verdict, _reasons(smoked.verdict, smoked.findings, f"smoke is {smoked.verdict}")
    untried = [finding for finding in smoked.findings if finding.code in LEAVES_UNPROVEN]
    if untried:
        return Verdict.INCONCLUSIVE, tuple(Reason(code=each.code, message=each.message) for each in untried)
    return Verdict.PASSED, ()


def _reasons(verdict: Verdict, findings: tuple[Finding, ...], otherwise: str) -> tuple[Reason, ...]:
    """What blocks, the verdict's own causes first; never nothing."""
    blocking = [finding for finding in findings if finding.verdict is not Verdict.PASSED]
    blocking.sort(key=lambda finding: finding.verdict is not verdict)
    found = tuple(Reason(code=finding.code, message=finding.message) for finding in blocking)
    return found or (Reason(code=str(verdict), message=otherwise),)


def _tried_vcpus(smoked: SmokeReport) -> float:
    capped = next((each.evidence.get("vcpus") for each in smoked.findings if each.code == _CAPPED), None)
    return float(capped) if isinstance(capped, int | float) else smoked.vcpus

"""Packages, one package's instance types, or releases → one HTML page each.

Everything from outside is escaped; no script from elsewhere, light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tasks.contracts import Verdict
from tasks.figures import NOTHING, amount, figure, gib, short, size
from tasks.overview.view import PackageView
from tasks.placement import Matrix, Recommendation
from tasks.release.contracts import Phase

if TYPE_CHECKING:
    from tasks.release.controller import Standing


@dataclass(frozen=True, slots=True)
class Model:
    """One model: its newest package, and the ones before it."""

    newest: PackageView
    earlier: tuple[PackageView, ...]


def render_page(packages: Sequence[PackageView], *, dag_url: str, problem: str | None = None) -> str:
    """The page over all packages, newest first. `dag_url` is where packaging runs are seen and started."""
    return _render("packages.html", models=by_model(packages), dag_url=_link(dag_url), problem=problem)


def render_matrix(matrix: Matrix, recommendation: Recommendation) -> str:
    """The page over one package's formats and instance types; it stands alone, and MLflow keeps it."""
    return _render("matrix.html", matrix=matrix, recommendation=recommendation)


def render_releases(
    models: Sequence[Standing],
    *,
    release_url: str | None = None,
    rollback_url: str | None = None,
    problem: str | None = None,
) -> str:
    """The page over all models that were released: what serves, what goes on, how the latest ended. It loads itself
    again while something goes on."""
    return _render(
        "releases.html",
        models=models,
        is_live=any(model.underway is not None for model in models),
        release_url=_link(release_url),
        rollback_url=_link(rollback_url),
        problem=problem,
    )


def _render(template: str, **values: object) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "size": _size,
        "gib": _gib,
        "figure": _figure,
        "short": short,
        "link": _link,
        "amount": _amount,
    }
    environment.filters["phase_verdict"] = _phase_verdict
    return environment.get_template(template).render(**values)


def by_model(packages: Iterable[PackageView]) -> list[Model]:
    """Packages, newest first, by model; the model with the newest package comes first."""
    found: dict[str, list[PackageView]] = {}
    for package in packages:
        found.setdefault(package.name, []).append(package)
    return [Model(newest=group[0], earlier=tuple(group[1:])) for group in found.values()]


def _size(count: int | None) -> str:
    return NOTHING if count is None else size(count)


def _gib(count: int | None) -> str:
    return NOTHING if count is None else gib(count)


def _figure(value: float | None, unit: str = "") -> str:
    return NOTHING if value is None else f"{figure(value)}\u202f{unit}".rstrip("\u202f")


def _amount(value: float | None, unit: str = "") -> str:
    return NOTHING if value is None else f"{amount(value)}\u202f{unit}".rstrip("\u202f")


def _phase_verdict(phase: Phase) -> str:
    """How a release's phase is coloured: as the verdict that it stands for, or not at all while it goes on."""
    return {
        Phase.PROMOTED: Verdict.PASSED,
        Phase.HELD: Verdict.INCONCLUSIVE,
        Phase.ROLLING_BACK: Verdict.FAILED,
        Phase.ROLLED_BACK: Verdict.FAILED,
        Phase.REFUSED: Verdict.FAILED,
    }.get(phase, "")


def _link(url: str | None) -> str | None:
    """Only what a browser may follow: escaping alone lets `javascript:` through."""
    return url if url and (url.startswith("/") or urlsplit(url).scheme in {"http", "https"}) else None

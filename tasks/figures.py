"""Figures for people: sizes, measurements, digests. The one place that decides how they are written."""

from __future__ import annotations

NOTHING = "–"


def size(count: float) -> str:
    """Bytes, in powers of ten as registries and disks count."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def gib(count: float | None) -> str:
    """Memory, in powers of two as machines and limits have it: `0.12 GiB`, `3.75 GiB`."""
    return "unknown" if count is None else f"{amount(count / 2**30)} GiB"


def short(digest: str | None) -> str:
    """Enough of a digest to find it by."""
    return digest.removeprefix("sha256:")[:12] if digest else NOTHING


def figure(value: float | None) -> str:
    """Three significant digits."""
    return "unknown" if value is None else f"{value:.3g}"


def amount(value: float | None) -> str:
    """Three significant digits or whole numbers, never in powers of ten: rates and prices, which people compare."""
    return figure(value) if value is None or value < 1000 else f"{value:,.0f}"

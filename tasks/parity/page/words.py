"""How the page writes figures."""

from __future__ import annotations


def figure(value: float | None, digits: int = 3) -> str:
    """A measurement; `–` where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def share(margin: float) -> str:
    """A difference as a share of what is allowed."""
    if margin > 1:
        return f"{margin:,.3g} times" if margin < 1e4 else f"{margin:.1e} times"
    return "0 %" if margin == 0 else "under 1 %" if margin < 0.01 else f"{100 * margin:.0f} %"

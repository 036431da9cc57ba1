"""The containers that serve, one for each released package, by its digest.

containers.py   started, found, stopped
labels.py       by which they are found
"""

from __future__ import annotations

from tasks.release.arms.containers import Arms, Resources, Serving

__all__ = ["Arms", "Resources", "Serving"]

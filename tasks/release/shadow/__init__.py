"""Shadow: the same requests to the old and to the new version, compared pairwise before any user meets the new one.

    requests       which requests: recorded ones, evaluation rows, golden samples       pure, but for the log
    expectations   one model or a retrained one; signatures that clients rely on        pure
    gather         both packages and the store → requests and expectations
    replay         sending them, gently                                                the only part with a clock
    answers        which rows have the same answer                                     pure
    quality        the task's metrics over the labelled rows                           pure
    judge          recorded pairs → ShadowReport                                       pure
    findings       the sentences                                                       pure
    stage          all of it in order

docs/shadow.md is the page for users.
"""

from __future__ import annotations

from tasks.release.shadow.stage import run_shadow, shadow

__all__ = ["run_shadow", "shadow"]

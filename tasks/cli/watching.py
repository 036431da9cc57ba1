"""What whoever watches a release sees: one picture that changes, or, where no terminal is, a line for each turn."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from tasks.release.contracts import Phase, Release

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

#: Seconds between two lines of the same step, where there is no terminal.
_LINE_EVERY_S = 10.0


class Progress:
    """Told of a release after every slice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._said: tuple[Phase, int] | None = None
        self._said_at = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def __call__(self, release: Release) -> None:
        if self._console.is_terminal:
            self._draw(release)
        else:
            self._say(release)

    def stop(self) -> None:
        """Leave the picture as it is: something else is to be said."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, release: Release) -> None:
        from rich.console import Group
        from rich.live import Live

        from tasks.release.report import lines

        picture = Group(*lines(release))
        if self._live is None:
            self._live = Live(picture, console=self._console, auto_refresh=False, transient=release.phase.is_over)
            self._live.start(refresh=True)
        self._live.update(picture, refresh=True)

    def _say(self, release: Release) -> None:
        from tasks.release.report.view import sentence

        judged = release.judgement
        at = judged.at if judged is not None else self._said_at
        turn = (release.phase, release.step)
        if turn == self._said and at - self._said_at < _LINE_EVERY_S:
            return
        self._said, self._said_at = turn, at
        waits = f" {judged.reason}" if judged is not None and judged.reason and release.phase is Phase.CANARY else ""
        self._console.print(f"{release.phase.value.replace('_', ' '):<12} {sentence(release)}{waits}", soft_wrap=True)

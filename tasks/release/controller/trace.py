"""The looks of a release: each one on disk before it is judged, and judged in the order in which they were taken.

What a release decides is the judge's fold of its trace, so that a process that goes on with another's release comes to
the same judgement as the other would have. The file is the one that `slipway judge` replays: what was agreed first,
then a look on each line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.release.contracts import Judgement, Sample, TraceHead
from tasks.release.controller.ledger import append_line, read_lines, replace_file
from tasks.release.controller.protocols import Judging


class Trace:
    """A release's looks, and what they say so far."""

    def __init__(self, path: Path, head: TraceHead, judge: Judging) -> None:
        self.path, self._head, self._judge = path, head, judge
        self._offset = 0
        self.judgement: Judgement | None = None

    def catch_up(self) -> Judgement | None:
        """Judge what was written since, by whomever; what all looks so far say."""
        for sample, end in _samples(self.path, self._offset):
            self.judgement, self._offset = self._judge.look(sample), end
        return self.judgement

    def add(self, sample: Sample) -> Judgement:
        """One more look. It is on disk when it is judged."""
        if next(read_lines(self.path, TraceHead), None) is None:
            append_line(self.path, self._head)
        append_line(self.path, sample)
        judgement = self.catch_up()
        assert judgement is not None  # noqa: S101  a look that was written can be read
        return judgement

    def agree_anew(self, head: TraceHead) -> None:
        """Let the file say that a person gave it more time. What was seen stays as it is."""
        samples = [sample for sample, _ in _samples(self.path)]
        if samples:
            lines = [each.model_dump_json() + "\n" for each in (head, *samples)]
            replace_file(self.path, "".join(lines).encode())


def looks(path: Path) -> tuple[Sample, ...]:
    """Every look of a trace."""
    return tuple(sample for sample, _ in _samples(path))


def _samples(path: Path, offset: int = 0) -> Iterator[tuple[Sample, int]]:
    if offset == 0:
        head = next(read_lines(path, TraceHead), None)
        if head is None:
            return
        offset = head[1]
    yield from read_lines(path, Sample, offset)

"""Export: the trained model written in a format that a runtime serves, every named dimension open.

In: a `ModelSpec`, its `Artifact` and a format of `FORMATS`. Out: an `ExportReport` with the files in the store, or with
a finding that names the module, the reason and the formats that do work. `tasks.export.stage` says how.
"""

from __future__ import annotations

from tasks.export.formats import FORMATS, Format, formats_of
from tasks.export.stage import export

__all__ = ["FORMATS", "Format", "export", "formats_of"]

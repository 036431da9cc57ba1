"""What is installed in an image, one JSON object a line. `tasks.image.inventory` runs it there; standard library alone.

Debian packages come from the base's `/var/lib/dpkg/status.d`, Python distributions from their `.dist-info`. Licences
are those that a package declares of itself; where their texts are is said too, as a path in the image.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

#: Texts that Debian's copyright files refer to instead of repeating them.
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z]+(?:-[0-9.]*[0-9])?)")
#: The short names of a machine-readable copyright file (Debian's "Copyright format 1.0").
_SHORT = re.compile(r"^License: *(\S.*)$", re.MULTILINE)


def debian(root: Path) -> Iterator[dict[str, object]]:
    for path in sorted((root / "var/lib/dpkg/status.d").glob("*")):
        fields = HeaderParser().parsestr(path.read_text())
        copyright_file = root / "usr/share/doc" / path.name / "copyright"
        text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
        names = _SHORT.findall(text) if text.startswith("Format:") else _COMMON.findall(text)
        yield {
            "kind": "debian",
            "name": fields["Package"],
            "version": fields["Version"],
            "architecture": fields["Architecture"],
            "licences": sorted(set(names)),
            "texts": [f"/{copyright_file.relative_to(root)}"] if text else [],
            "sha256": fields.get("SHA256"),
        }


def python(root: Path, folder: Path) -> Iterator[dict[str, object]]:
    for path in sorted(folder.glob("*.dist-info")):
        fields = HeaderParser().parsestr((path / "METADATA").read_text())
        declared = fields.get("License-Expression") or fields.get("License") or ""
        classified = [
            name.split(" :: ")[-1] for name in fields.get_all("Classifier", []) if name.startswith("License ::")
        ]
        # some wheels carry the whole text in that field
        licences = [declared] if declared and "\n" not in declared and len(declared) < 100 else classified
        package = folder / str(fields["Name"]).replace("-", "_")
        texts = [file for place in (path, package) for file in place.rglob("*") if _is_licence(file)]
        yield {
            "kind": "python",
            "name": fields["Name"],
            "version": fields["Version"],
            "licences": sorted(licences),
            "texts": sorted(f"/{file.relative_to(root)}" for file in texts),
        }


def _is_licence(path: Path) -> bool:
    names = ("licen", "copying", "notice", "thirdpartynotices", "third_party_notices", "copyright")
    return path.is_file() and path.suffix not in {".py", ".pyc"} and path.name.lower().startswith(names)


if __name__ == "__main__":
    top = Path(sys.argv[1])
    for item in (*debian(top), *python(top, top / "opt/runtime")):
        print(json.dumps(item))

"""A folder that reproduces a failure with nothing but the runtime: for whoever mends it, and who it is handed on to.

In: the case, the report and the export. Out: the folder's files in the store:

    README.md        what is wrong, and how to see it
    reproduce.py     loads, runs, prints the largest difference of each output, exits 1 when it is above the allowance
    inputs.npz       model inputs, after preprocessing
    expected.npz     the source model's answers; allowed.npz: how far an answer may lie from each value
    actual.npz       what the export answered, where it did
    export/          the export's own files, by digest: they are in the store once
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from serving.contract import PackagedFile, Signature
from tasks.contracts import Export, FileTree, ParityReport, Verdict
from tasks.parity.arrays import npz_bytes
from tasks.parity.failing import Case
from tasks.settings import Settings
from tasks.store import Store, fetch_tree
from tasks.workspace import locked, scratch

#: The folder of the export's files.
EXPORT = "export"

#: Runtime, or a format of it that is opened in a way of its own → the lines that make `answers`, a dict of arrays,
#: from `inputs`; `{path}` is what to load.
_RUN = {
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
inputs = {{name: array.astype(object) if array.dtype.kind == "U" else array for name, array in inputs.items()}}
names = [output.name for output in session.get_outputs()]
answers = dict(zip(names, session.run(names, inputs)))
""",
    "tensorflow": """\
import tensorflow as tf

model = tf.saved_model.load({path!r})
answers = model.signatures["serving_default"](**{{name: tf.constant(array) for name, array in inputs.items()}})
answers = {{name: answer.numpy() for name, answer in answers.items()}}
""",
    "torch": """\
import torch

torch.set_num_threads(1)
program = torch.export.load({path!r}).module()
with torch.inference_mode():
    answers = program(*(torch.tensor(inputs[name]) for name in INPUTS))
answers = list(answers.values()) if isinstance(answers, dict) else answers
answers = list(answers) if isinstance(answers, (list, tuple)) else [answers]
answers = dict(zip(OUTPUTS if len(answers) == len(OUTPUTS) else range(len(answers)), (a.numpy() for a in answers)))
""",
    "torch-aoti": """\
import torch

torch.set_num_threads(1)
program = torch._C._aoti.AOTIModelPackageLoader({path!r}, "model", False, 1, -1)
answers = program.run([torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in INPUTS])
answers = dict(zip(OUTPUTS, (answer.numpy() for answer in answers)))
""",
}

_SCRIPT = """\
# Run it in this folder's environment: python reproduce.py. README.md says what should be seen.
import os
import sys

import numpy as np

os.chdir(os.path.dirname(os.path.abspath(__file__)))
INPUTS = {inputs}
OUTPUTS = {outputs}
inputs, expected, allowed = (dict(np.load(name + ".npz")) for name in ("inputs", "expected", "allowed"))

{run}
wrong = sorted(map(str, set(OUTPUTS) ^ set(answers)))
if wrong:
    print("outputs that only one side has:", ", ".join(wrong))
for name in set(OUTPUTS) & set(answers):
    got, want = answers[name], expected[name]
    if got.dtype.kind in "OUS":
        got, want = got.astype(str), want.astype(str)
    elif got.dtype != OUTPUTS[name]:
        print(f"{{name}}: the dtype is {{got.dtype}}, expected {{OUTPUTS[name]}}")
        wrong.append(name)
        continue
    if got.shape != want.shape:
        print(f"{{name}}: the shape is {{got.shape}}, expected {{want.shape}}")
        wrong.append(name)
        continue
    right, difference = got == want, "none"
    if got.dtype.kind in "biuf":
        far = np.abs(got.astype(float) - want.astype(float))
        right = right | (far <= allowed[name]) | (np.isnan(got.astype(float)) & np.isnan(want.astype(float)))
        difference = f"{{np.nanmax(far, initial=0):.3g}}, allowed there {{allowed[name].flat[np.argmax(far)]:.3g}}"
    print(f"{{name}}: {{np.sum(~right)}} of {{right.size}} values are wrong; the largest difference is {{difference}}")
    wrong += [name] if not right.all() else []
sys.exit(1 if wrong else 0)
"""


def reproduction(case: Case, report: ParityReport, export: Export, signature: Signature, store: Store) -> FileTree:
    """Write the folder's files into the store; the export's own are referred to."""
    texts = {
        "README.md": _readme(case, report, export),
        "reproduce.py": script(export, signature),
    }
    arrays: dict[str, Mapping[str, NDArray[Any]]] = {
        "inputs.npz": case.inputs,
        "expected.npz": case.expected,
        "allowed.npz": case.allowed,
    }
    if case.actual:
        arrays["actual.npz"] = case.actual
    files = [_stored(name, text.encode(), store) for name, text in texts.items()]
    files += [_stored(name, npz_bytes(found), store) for name, found in arrays.items()]
    files += [PackagedFile(f"{EXPORT}/{file.path}", file.digest, file.size_bytes) for file in export.files.files]
    return FileTree(files=tuple(sorted(files, key=lambda file: file.path)))


def written(tree: FileTree, store: Store, settings: Settings) -> Path:
    """The folder under SLIPWAY_HOME that holds the files, named by their digest; written where it is not there yet."""
    folder = settings.home / "reproductions" / tree.digest.removeprefix("sha256:")[:12]
    with locked(settings.home / "locks" / f"reproduction-{folder.name}.lock"):
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with scratch(settings.work) as work:  # on the same disk: it is there whole or not at all
                fetch_tree(store, tree, work / "whole").rename(folder)
    return folder


def script(export: Export, signature: Signature) -> str:
    """`reproduce.py` for one export."""
    path = EXPORT if export.root == "." else f"{EXPORT}/{export.root}"
    return _SCRIPT.format(
        inputs=[tensor.name for tensor in signature.inputs],
        outputs={tensor.name: tensor.dtype.value for tensor in signature.outputs},
        run=_RUN.get(export.format, _RUN[export.runtime]).format(path=path),
    )


def _readme(case: Case, report: ParityReport, export: Export) -> str:
    wrong = [finding for finding in report.findings if finding.verdict is not Verdict.PASSED]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(export.versions.items()))
    lines = [
        f"# {export.format} does not answer as its source model does",
        "",
        f"This folder holds {case.place}: `inputs.npz`, what the source model answers (`expected.npz`), how far an "
        "answer may lie from each value (`allowed.npz`), the export itself "
        f"(`{EXPORT}/`, {report.export_digest}), "
        + ("and what it answered (`actual.npz`). " if case.actual else "which gave no answer. ")
        + f"`python reproduce.py` runs it with NumPy and the {export.runtime} runtime alone and exits 1 while it is "
        f"wrong. It was made with {versions or 'versions that were not recorded'}.",
        "",
        *(f"- {finding.code} (for the {finding.owner} team): {finding.message}" for finding in wrong),
    ]
    if case.error is not None:
        lines += ["", "What the runtime said:", "", *(f"    {line}" for line in case.error.splitlines())]
    return "\n".join(lines) + "\n"


def _stored(name: str, content: bytes, store: Store) -> PackagedFile:
    digest, size = store.put_stream(io.BytesIO(content))
    return PackagedFile(path=name, digest=digest, size_bytes=size)

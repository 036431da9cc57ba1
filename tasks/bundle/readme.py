"""A contract → README.txt: what the bundle is, and a program in its runtime that reproduces its golden answers.

The text follows from the package alone. The program is complete: `tests/integration/test_bundle.py` runs it as printed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from serving.contract import PREPROCESS_FOLDER, ServingContract
from serving.description import section, sections
from serving.preprocess import step_files
from tasks.contracts import Digest

#: Runtime → how its model is opened; each defines `run(inputs) -> outputs`, both by name. {…} are filled in.
_PROGRAMS = {
    "onnx": """
        import onnxruntime

        session = onnxruntime.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
        outputs = {outputs!r}

        def run(inputs):
            return dict(zip(outputs, session.run(outputs, inputs)))
        """,
    "tensorflow": """
        import tensorflow as tf

        function = tf.saved_model.load({model!r}).signatures["serving_default"]

        def run(inputs):
            answers = function(**{{name: tf.constant(array) for name, array in inputs.items()}})
            return {{name: answer.numpy() for name, answer in answers.items()}}
        """,
    "torch": """
        import torch

        program = torch.export.load({model!r}).module()
        inputs_in_order, outputs = {inputs!r}, {outputs!r}

        def run(inputs):
            with torch.no_grad():
                answers = program(*(torch.tensor(inputs[name]) for name in inputs_in_order))
            return dict(zip(outputs, (leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(answers))))
        """,
    "torch-aoti": """
        import glob
        import torch

        (library,) = glob.glob({model!r} + "/data/aotinductor/*/*.so")  # native code: it runs what is in it
        program = torch._C._aoti.AOTIModelContainerRunnerCpu(library, 1)
        inputs_in_order, outputs = {inputs!r}, {outputs!r}

        def run(inputs):
            answers = program.run([torch.tensor(inputs[name]) for name in inputs_in_order])
            return dict(zip(outputs, (answer.numpy() for answer in answers)))
        """,
}

_GOLDEN = """
    import json
    import numpy as np

    def read(tensor):
        if tensor["offset"] is None:  # strings
            return np.array(json.load(open(tensor["file"])), object).reshape(tensor["shape"])
        return np.load(tensor["file"])

    golden = json.load(open("golden/index.json"))
    prepared = {tensor["name"]: read(tensor) for tensor in golden["prepared"]}
    for rows in [slice(*batch) for batch in golden["batches"] or []] or [...]:
        answers = run({name: array[rows] for name, array in prepared.items()})
        for tensor in golden["outputs"]:
            wanted, answer = read(tensor)[rows], answers[tensor["name"]]
            if wanted.dtype == object:
                assert np.array_equal(answer.astype(str), wanted.astype(str)), tensor["name"]
            else:
                np.testing.assert_allclose(answer, wanted, err_msg=tensor["name"], **tensor["tolerance"])
    print("the golden answers are reproduced")
"""

#: Format → what other languages run it with.
_ELSEWHERE = {
    "onnx": "JavaScript: onnxruntime-web or onnxruntime-node. C, C++, C#, Java, Rust: ONNX Runtime's own interfaces.",
    "savedmodel": "C, C++, Java, Go, Rust: TensorFlow's C library (TF_LoadSessionFromSavedModel, tag serve, signature "
    "serving_default).",
    "torch-export": "C++: none directly; compile it with AOTInductor (format torch-aoti) and call the library.",
    "torch-aoti": "C++: torch::inductor::AOTIModelContainerRunnerCpu with the library below model/data/aotinductor.",
}


def readme(contract: ServingContract, package: Digest | None) -> str:
    """The text of README.txt."""
    paragraphs = [
        f"{contract.name} {contract.version}, as {contract.format}: the model by itself, without a server.",
        f"It passed every gate as package {package}."
        if package
        else "Whether it passed its gates was not known where this was written.",
        section("Files", *_layout(contract)),
        *(section(title, *lines) for title, lines in sections(contract).items()),
        section("Python: run this in this folder", "", *program(contract).splitlines()),
        section("Other languages", *_wrapped(_elsewhere(contract))),
        section("Is it whole?", "  sha256sum --check --quiet SHA256SUMS"),
    ]
    return "\n\n".join(paragraphs) + "\n"


def program(contract: ServingContract) -> str:
    """A Python program that reproduces the golden answers, indented by four."""
    kind = contract.format if contract.format in _PROGRAMS else contract.runtime
    opened = textwrap.dedent(_PROGRAMS[kind]).format(
        model=contract.model,
        inputs=[tensor.name for tensor in contract.signature.inputs],
        outputs=[tensor.name for tensor in contract.signature.outputs],
    )
    return textwrap.indent(opened.strip() + "\n\n" + textwrap.dedent(_GOLDEN).strip(), "    ")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  ")


def _layout(contract: ServingContract) -> Iterable[str]:
    rows = {
        contract.model: "what the runtime opens",
        "contract.json": "signature, ranges, preprocessing, tolerances, versions, digests of the files",
        contract.golden: "golden samples: raw inputs and the source model's answers, for NumPy",
        "golden/": "the same as .npy and JSON, and the inputs after preprocessing; index.json says what is where",
        "SHA256SUMS": "of every other file",
    }
    if step_files(contract.preprocess):
        rows[f"{PREPROCESS_FOLDER}/"] = "files that steps before the model name: vocabularies, tokenizers"
    width = max(len(name) for name in rows)
    return (f"  {name:<{width}}  {what}" for name, what in rows.items())


def _elsewhere(contract: ServingContract) -> str:
    kind = contract.format if contract.format in _ELSEWHERE else contract.runtime
    return _ELSEWHERE.get(kind, "see the runtime's own documentation.") + (
        " golden/inputs is what clients of a server send, golden/prepared what the model itself takes."
        " Read them by golden/index.json: skip `offset` bytes of a .npy file and its values follow, "
        "little endian, in C order. What is not reproduced within the tolerances is not this package's model."
    )

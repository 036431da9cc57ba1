"""An illegal instruction, attributed: which library of the image, where in it, which instruction, what it needs.

In: what the witness (`tasks.smoke.witness`) wrote from inside the container. Out: an `IllegalInstruction`, whose code
is decoded here, by iced-x86; and what a finding says of one.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from tasks.smoke.host import VOCABULARY
from tasks.smoke.observation import IllegalInstruction

#: The witness's program text, for `python -c`: an image needs nothing of it, and the mode of our files does not matter.
WITNESS = Path(__file__).with_name("witness.py").read_text(encoding="utf-8")

#: What every x86-64 processor has, by iced's names; and others that the kernel calls by another name.
_EVERYWHERE = frozenset({"mmx", "sse", "sse2", "x64", "cmov", "cx8", "fxsr", "multibytenop"})
_KERNEL_NAMES = {"lzcnt": "abm", "sha": "sha_ni"} | {name.replace("_", ""): name for name in VOCABULARY}


def witnessed(logs: str) -> IllegalInstruction | None:
    """What the witness wrote into a container's logs; None where it came to nothing."""
    for line in logs.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)["illegal_instruction"]
            text, code, extensions = _decode(bytes.fromhex(found["code"]), int(found["offset"]))
            return IllegalInstruction(
                library=str(found["library"]),
                offset=int(found["offset"]),
                symbol=str(found["symbol"]),
                symbol_offset=int(found["symbol_offset"]),
                code=code,
                text=text,
                extensions=extensions,
            )
    return None


def attribution(found: IllegalInstruction | None) -> str:
    """Where it is and what it needs, as a clause that ends a sentence; nothing where it was not seen."""
    if found is None:
        return ""
    if found.library:
        inside = f"{found.symbol}+{found.symbol_offset:#x} of " if found.symbol else ""
        where = f"{inside}{found.library}, offset {found.offset:#x}"
    else:
        where = "code that was made at run time, which is in no file of the image"
    if found.text.startswith("ud"):
        needs = "which no processor executes: the program stopped itself there"
    elif found.extensions:
        needs = f"which needs {' and '.join(found.extensions)}"
    else:
        needs = "which the processor refused"
    return f": `{found.text}` in {where}, {needs}"


def evidence(found: IllegalInstruction | None) -> dict[str, str | int | float | bool]:
    if found is None:
        return {}
    return {
        "library": found.library,
        "offset": f"{found.offset:#x}",
        "symbol": f"{found.symbol}+{found.symbol_offset:#x}" if found.symbol else "",
        "instruction": found.text,
        "code": found.code,
        "needs": " ".join(found.extensions),
    }


def _decode(code: bytes, at: int) -> tuple[str, str, tuple[str, ...]]:
    """The first instruction in Intel's syntax, its bytes in hexadecimal, the extensions by the kernel's names."""
    from iced_x86 import CpuidFeature, Decoder

    instruction = Decoder(64, code, ip=at).decode()
    if instruction.is_invalid:
        return "an instruction that is not known", code.hex(" "), ()
    names = {value: name.lower() for name, value in vars(CpuidFeature).items() if isinstance(value, int)}
    found = [names[feature] for feature in instruction.cpuid_features()]
    needs = [
        _KERNEL_NAMES.get(name.replace("_", ""), name)
        for name in found
        if name not in _EVERYWHERE and not name.startswith(("intel", "fpu"))
    ]
    return str(instruction), code[: instruction.len].hex(" "), tuple(sorted(needs))


__all__ = ["WITNESS", "attribution", "evidence", "witnessed"]

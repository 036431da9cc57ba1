"""An illegal instruction is named: what the witness writes is decoded, and the witness sees what there is."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

from tasks.smoke.illegal import WITNESS, attribution, evidence, witnessed
from tasks.smoke.observation import IllegalInstruction

LIBRARY = "/opt/runtime/onnxruntime/capi/libonnxruntime.so"


def written(code: str, **changes: object) -> str:
    """A container's log with a witness's line in it."""
    place = {"library": LIBRARY, "offset": 0x1135, "symbol": "MlasGemm", "symbol_offset": 12, "code": code}
    return "\n".join(["a warning", json.dumps({"event": "x"}), json.dumps({"illegal_instruction": place | changes})])


@pytest.mark.parametrize(
    ("code", "text", "needs"),
    [
        ("c4e27d58c0c5fd7f4424e0", "vpbroadcastd ymm0,xmm0", ("avx2",)),
        ("62f1fd286f00", "vmovdqa64 ymm0,[rax]", ("avx512f", "avx512vl")),
        ("62f27d4850c1", "vpdpbusd zmm0,zmm0,zmm1", ("avx512_vnni",)),
        ("c4e27d50c1", "vpdpbusd ymm0,ymm0,ymm1", ("avx_vnni",)),
        ("f30fbdc0", "lzcnt eax,eax", ("abm",)),
        ("c5f9efc0", "vpxor xmm0,xmm0,xmm0", ("avx",)),
        ("c4e2f9b8c0", "vfmadd231pd xmm0,xmm0,xmm0", ("fma",)),
        ("0f0b", "ud2", ()),
        ("4801c0", "add rax,rax", ()),
    ],
)
def test_an_instruction_is_decoded_with_what_it_needs_by_the_kernels_names(
    code: str, text: str, needs: tuple[str, ...]
) -> None:
    found = witnessed(written(code))
    assert found is not None
    assert (found.text, found.extensions) == (text, needs)


def test_a_sentence_says_where_it_is_and_what_it_needs() -> None:
    found = witnessed(written("c4e27d58c0c5fd7f4424e0"))
    assert attribution(found) == (
        f": `vpbroadcastd ymm0,xmm0` in MlasGemm+0xc of {LIBRARY}, offset 0x1135, which needs avx2"
    )
    assert evidence(found) == {
        "library": LIBRARY,
        "offset": "0x1135",
        "symbol": "MlasGemm+0xc",
        "instruction": "vpbroadcastd ymm0,xmm0",
        "code": "c4 e2 7d 58 c0",
        "needs": "avx2",
    }


def test_a_library_without_symbols_is_named_by_offset() -> None:
    found = witnessed(written("c4e27d58c0", symbol="", symbol_offset=0))
    assert f" in {LIBRARY}, offset 0x1135, " in attribution(found)


def test_code_that_was_made_at_run_time_and_a_program_that_stopped_itself_are_told() -> None:
    said = attribution(witnessed(written("0f0b", library="")))
    assert "code that was made at run time" in said
    assert said.endswith("which no processor executes: the program stopped itself there")


@pytest.mark.parametrize(
    "logs",
    ["", "qemu: uncaught target signal 4", '{"illegal_instruction": {}}', "[]", "3", '{"illegal_instruction": 1}'],
)
def test_where_nothing_was_witnessed_nothing_is_said(logs: str) -> None:
    assert witnessed(logs) is None
    assert attribution(None) == ""
    assert evidence(None) == {}


def test_bytes_that_are_no_instruction_are_kept() -> None:
    found = witnessed(written("06"))
    assert isinstance(found, IllegalInstruction)
    assert (found.text, found.code) == ("an instruction that is not known", "06")


def test_a_program_that_comes_to_an_illegal_instruction_is_witnessed_and_ends_as_by_the_signal() -> None:
    """In another thread, too: the handler is the process's."""
    program = f"{WITNESS.partition('if __name__')[0]}\n{DIES}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 132
    found = witnessed(done.stderr)
    assert found is not None
    assert (found.text, found.library) == ("ud2", "")


DIES = """
import threading
kept = watch()
code = mmap.mmap(-1, 4096, prot=7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
code.write(bytes.fromhex("0f0b"))
dies = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
threading.Thread(target=dies).start()
threading.Event().wait(30)
"""


def test_the_witness_describes_a_place_in_a_library() -> None:
    from tasks.smoke.witness import describe

    library = ctypes.CDLL(None)
    at = ctypes.cast(library.getpid, ctypes.c_void_p).value
    assert at is not None
    found = describe(at + 1)
    assert "libc" in str(found["library"])
    assert str(found["symbol"]).endswith("getpid")
    assert found["symbol_offset"] == 1
    assert len(str(found["code"])) == 30

"""The ctypes declarations of quashdb.kv against the C headers themselves."""

import ctypes
import pathlib
import re
import shutil
import subprocess

import pytest

pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
from quashdb.kv import _ffi, _tensors, errors  # noqa: E402

INCLUDE = pathlib.Path(__file__).parents[3] / "kvcache" / "include"
HEADER = "".join((INCLUDE / name).read_text() for name in ("quash_kv.h", "quash_quantizer.h"))

STRUCTS = {
    "quash_kv_options": _ffi.Options,
    "quash_kv_attend_args": _ffi.AttendArgs,
    "quash_kv_stats": _ffi.Stats,
    "quash_quantizer_options": _ffi.QuantizerOptions,
}


def declarations():
    """(name, text between the parentheses) of every function."""
    text = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    return re.findall(r"QUASH_KV_API [^;(]*?\b(quash_\w+)\(([^;]*?)\);", text)


def test_every_function_is_declared():
    assert sorted(name for name, _ in declarations()) == sorted(_ffi.FUNCTIONS)


def test_argument_counts():
    for name, text in declarations():
        count = 0 if text == "void" else text.count(",") + 1
        assert count == len(_ffi.FUNCTIONS[name][1]), name


def test_every_struct_is_declared():
    assert set(re.findall(r"typedef struct (\w+) \{", HEADER)) == set(STRUCTS)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layouts_and_values(tmp_path):
    expected = {}
    for name, struct in STRUCTS.items():
        expected[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            expected[f"offsetof({name}, {field})"] = getattr(struct, field).offset
    for name, value in _ffi.QUANTIZERS.items():
        expected[f"QUASH_KV_{name.upper()}"] = value
    for name, value in _ffi.ROTATIONS.items():
        expected[f"QUASH_KV_{name.upper()}"] = value
    for name, dtype in (("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")):
        torch = pytest.importorskip("torch")
        expected[f"QUASH_KV_{name}"] = _tensors.DTYPES[getattr(torch, dtype)]
    statuses = ("INVALID", "NOT_FOUND", "FULL", "NOMEM", "CORRUPT", "UNSUPPORTED", "INTERNAL")
    for name, value in zip(statuses, sorted(errors._CLASSES), strict=True):
        expected[f"QUASH_KV_{name}"] = value
    checks = "\n".join(
        f'_Static_assert(({what}) == {value}, "{what}");' for what, value in expected.items()
    )
    source = tmp_path / "check.c"
    source.write_text(f'#include "quash_quantizer.h"\n{checks}\n')
    subprocess.run(["cc", "-std=c11", f"-I{INCLUDE}", "-fsyntax-only", source], check=True)


def test_page_size():
    assert _ffi.PAGE_SIZE == 64

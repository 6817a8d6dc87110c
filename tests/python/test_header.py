"""The ctypes declarations against quashdb.h itself."""

import ctypes
import pathlib
import re
import shutil
import subprocess

import pytest

from quashdb import _ffi, errors

INCLUDE = pathlib.Path(__file__).parents[2] / "libquashdb" / "include"
HEADER = (INCLUDE / "quashdb.h").read_text()

STRUCTS = {
    "quash_open_options": _ffi.OpenOptions,
    "quash_field": _ffi.Field,
    "quash_collection_options": _ffi.CollectionOptions,
    "quash_collection_info": _ffi.CollectionInfo,
    "quash_gpu_options": _ffi.GpuOptions,
    "quash_rows": _ffi.Rows,
    "quash_ids": _ffi.Ids,
    "quash_texts": _ffi.Texts,
    "quash_search_options": _ffi.SearchOptions,
    "quash_measure_options": _ffi.MeasureOptions,
    "quash_measure_report": _ffi.MeasureReport,
}
ENUMS = {
    "QUASH_OPEN_": _ffi.OPEN_MODES,
    "QUASH_DURABILITY_": _ffi.DURABILITIES,
    "QUASH_METRIC_": _ffi.METRICS,
    "QUASH_ID_": _ffi.ID_TYPES,
    "QUASH_RERANK_": _ffi.RERANKS,
    "QUASH_ROTATION_": _ffi.ROTATIONS,
    "QUASH_FIELD_": _ffi.FIELD_TYPES,
    "QUASH_TEXT_": _ffi.TEXTS,
}


def test_every_function_is_declared():
    declared = re.findall(r"QUASH_API [^;]*?\b(quash_\w+)\(", HEADER)
    assert sorted(declared) == sorted(_ffi.FUNCTIONS)


def test_argument_counts():
    for name, (_, arguments) in _ffi.FUNCTIONS.items():
        text = re.search(rf"QUASH_API [^;(]*?\b{name}\(([^;]*?)\);", HEADER).group(1)
        count = 0 if text == "void" else text.count(",") + 1
        assert count == len(arguments), name


def test_every_struct_is_declared():
    assert set(re.findall(r"typedef struct (\w+) \{", HEADER)) == set(STRUCTS)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_layouts_and_values(tmp_path):
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, *_ in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
    limits = [name for name in vars(_ffi) if name.endswith("_MAX")]
    constants = [f"QUASH_{name}" for name in limits]
    constants += re.findall(r"\bQUASH_INCLUDE_[A-Z]+\b", HEADER)
    statuses = re.search(r"typedef enum quash_status \{(.*?)\}", HEADER, re.S).group(1)
    constants += re.findall(r"\b(QUASH_\w+) = ", statuses)
    for prefix in ENUMS:
        constants += re.findall(rf"\b({prefix}\w+) = ", HEADER)
    for name in sorted(set(constants)):
        lines.append(f'printf("{name} %llu\\n", (unsigned long long){name});')
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "quashdb.h"\nint main(void) {\n'
        + "\n".join(lines)
        + "\nreturn 0;\n}\n"
    )
    subprocess.run(["cc", "-I", INCLUDE, source, "-o", tmp_path / "layout"], check=True)
    output = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True)
    actual = {line.split()[0]: int(line.split()[1]) for line in output.stdout.splitlines()}

    expected = {}
    for name, struct in STRUCTS.items():
        expected[name] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            expected[f"{name}.{field}"] = getattr(struct, field).offset
    for name in limits:
        expected[f"QUASH_{name}"] = getattr(_ffi, name)
    for status in errors.Status:
        expected[f"QUASH_{status.name}"] = status
    for name in ("METADATA", "DOCUMENTS", "VECTORS"):
        expected[f"QUASH_INCLUDE_{name}"] = getattr(_ffi, f"INCLUDE_{name}")
    c_names = {"int[]": "INT_LIST", "string[]": "STRING_LIST"}
    for prefix, values in ENUMS.items():
        for name, value in values.items():
            expected[prefix + c_names.get(name, name.upper())] = value
    # QUASH_ID_BYTES_MAX and QUASH_FIELDS_MAX are limits, not enum values.
    assert actual == expected


def test_every_status_has_an_exception():
    for status in errors.Status:
        if status != errors.Status.OK:
            assert errors._CLASSES[status].status is status
            assert _ffi.lib.quash_status_name(status) == f"QUASH_{status.name}".encode()

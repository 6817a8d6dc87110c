"""Tests of the structure check, and the check of this tree itself.

Each case writes a small tree with one violation into a temporary folder and
expects the file, the line and the rule; the clean tree expects none.
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import include_graph

ROOT = pathlib.Path(__file__).resolve().parents[2]

CLEAN_TREE = {
    ".gitignore": "build*/\n",
    "CMakeLists.txt": "project(quashdb)\n",
    "build-debug/junk.cc": '#include "nowhere.h"\n',
    "kernels/CMakeLists.txt": "target_compile_options(k PRIVATE -mavx2) # not OpenMP::OpenMP_CXX\n",
    "kernels/scan.h": "#pragma once\n#include <cstdint>\n",
    "kernels/scan.cc": '#include "kernels/scan.h"\n#include <immintrin.h>\n'
                       "__m256i Zero() { return _mm256_setzero_si256(); }\n",
    "libquashdb/include/quashdb.h": "#ifndef QUASHDB_H_\n#define QUASHDB_H_\n#endif\n",
    "libquashdb/db.cc": '#include <rocksdb/db.h>\n\n#include "catalog_generated.h"\n'
                        '#include "kernels/scan.h"\n#include "quashdb.h"\n#pragma omp parallel\n'
                        'const char* kText = "abort(";  // printf(\n'
                        "/* #include \"cli/shell.h\"\n   std::cout */\n"
                        "void F(char* p) { std::snprintf(p, 1, \"exit(\"); db->exit(); }\n",
    "cli/shell.h": "#pragma once\n#include <iostream>\n",
    "cli/shell.cc": '#include "cli/shell.h"\n#include "quashdb.h"\nint main() { std::exit(1); }\n',
    "bindings/python/kv.py": "import torch\n",
    "tests/db_test.cc": '#include <rocksdb/db.h>\n#include "libquashdb/include/quashdb.h"\n'
                        '#include "kernels/scan.h"\n#include <thread>\n',
}

# Name -> (path, text, line, rule, part of the message).
VIOLATIONS = {
    "kernels include the library": (
        "kernels/a.cc", '#include "kernels/scan.h"\n#include "libquashdb/db.h"\n', 2, "layer",
        "kernels may not include libquashdb/db.h"),
    "kernels include the public header": (
        "kernels/a.cc", '#include "quashdb.h"\n', 1, "layer", "public header"),
    "the library includes the cache": (
        "libquashdb/a.cc", '\n#  include "kvcache/page.h"\n', 2, "layer", "kvcache/page.h"),
    "the cache includes the library": (
        "kvcache/a.cc", '#include "libquashdb/db.h"\n', 1, "layer", "libquashdb/db.h"),
    "the shell includes internals": (
        "cli/a.cc", '#include "quashdb.h"\n#include "kernels/scan.h"\n', 2, "layer", "cli may not"),
    "bindings include internals": (
        "bindings/c/a.c", '#include "libquashdb/db.h"\n', 1, "layer", "bindings may not"),
    "the library includes a test": (
        "libquashdb/a.cc", '#include "tests/util.h"\n', 1, "layer", "tests/util.h"),
    "RocksDB in the shell": (
        "cli/a.cc", "#include <rocksdb/db.h>\n", 1, "library", "RocksDB"),
    "FlatBuffers in kernels": (
        "kernels/a.cc", "\n\n#include <flatbuffers/flatbuffers.h>\n", 3, "library", "FlatBuffers"),
    "a generated header in the shell": (
        "cli/a.cc", '#include "record_generated.h"\n', 1, "library", "FlatBuffers"),
    "intrinsics header in the library": (
        "libquashdb/a.cc", "#include <immintrin.h>\n", 1, "library", "intrinsics"),
    "NEON in the cache": (
        "kvcache/a.cc", "#include <arm_neon.h>\n", 1, "library", "intrinsics"),
    "xsimd in the library": (
        "libquashdb/a.cc", "#include <xsimd/xsimd.hpp>\n", 1, "library", "xsimd"),
    "omp.h in kernels": ("kernels/a.cc", "#include <omp.h>\n", 1, "library", "OpenMP"),
    "threads in kernels": ("kernels/a.cc", "#include <thread>\n", 1, "library", "threads"),
    "torch in the cache": (
        "kvcache/a.cc", "#include <torch/extension.h>\n", 1, "library", "torch"),
    "a parallel pragma in kernels": (
        "kernels/a.cc", "// why\n#pragma omp parallel for\n", 2, "content", "OpenMP"),
    "OpenMP linked to kernels": (
        "kernels/x.cmake", "target_link_libraries(k OpenMP::OpenMP_CXX)\n", 1, "content", "OpenMP"),
    "an intrinsic in the library": (
        "libquashdb/a.cc", "void F() {\n  _mm_pause();\n}\n", 2, "content", "kernels"),
    "an instruction set in the library": (
        "libquashdb/x.cmake", "add_compile_options(-mavx2)\n", 1, "content", "kernels only"),
    "internals linked to the shell": (
        "cli/CMakeLists.txt", "\ntarget_link_libraries(cli quashdb_core)\n", 2, "content",
        "internals"),
    "the library prints": (
        "libquashdb/a.cc", '/* a\n b */ void F() { std::cerr << "x"; }\n', 2, "content", "prints"),
    "the library aborts": (
        "kernels/a.cc", "void F() { std::abort(); }\n", 1, "content", "ends the process"),
    "torch in Python outside bindings": (
        "datasets/a.py", "import json\nfrom torch import nn\n", 2, "content", "torch"),
    "an include by a relative path": (
        "libquashdb/a.cc", '#include "db.h"\n', 1, "full-path", '"db.h"'),
    "a file that includes itself": (
        "kernels/a.h", '#pragma once\n#include "kernels/a.h"\n', 2, "cycle",
        "kernels/a.h -> kernels/a.h"),
    "a long file": ("tests/a.cc", "\n" * 601, 601, "size", "601 lines"),
    "a foreign entry": ("scratch/notes.txt", "", 0, "top-level", "not one of"),
}

# Included by the cases above; as clean as their folders demand.
HEADERS = {path: "#pragma once\n" for path in (
    "libquashdb/db.h", "kvcache/page.h", "tests/util.h")}


def write_tree(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def check_tree(files):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write_tree(root, files)
        return include_graph.check(root)


class StructureTest(unittest.TestCase):
    def test_clean_tree_has_no_violation(self):
        self.assertEqual(check_tree(CLEAN_TREE | HEADERS), [])

    def test_each_violation_is_found_where_it_is(self):
        for name, (path, text, line, rule, message) in VIOLATIONS.items():
            with self.subTest(name):
                found = check_tree(CLEAN_TREE | HEADERS | {path: text})
                self.assertEqual(len(found), 1, [str(violation) for violation in found])
                expected_path = path.split("/")[0] if rule == "top-level" else path
                self.assertEqual((found[0].path, found[0].line, found[0].rule),
                                 (expected_path, line, rule))
                self.assertIn(message, found[0].message)

    def test_cycle_through_other_files(self):
        found = check_tree(CLEAN_TREE | {
            "kernels/a.h": '#include "kernels/b.h"\n',
            "kernels/b.h": '\n#include "kernels/c.h"\n',
            "kernels/c.h": '#include <cstdint>\n#include "kernels/a.h"\n'})
        self.assertEqual([str(violation) for violation in found], [
            "kernels/c.h:2: cycle: "
            "kernels/a.h -> kernels/b.h -> kernels/c.h -> kernels/a.h"])

    def test_command_prints_violations_and_fails(self):
        with tempfile.TemporaryDirectory() as folder:
            write_tree(pathlib.Path(folder),
                       CLEAN_TREE | {"cli/a.cc": "#include <rocksdb/db.h>\n"})
            run = subprocess.run([sys.executable, include_graph.__file__, folder],
                                 capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertIn("cli/a.cc:1: library: RocksDB", run.stdout)

    def test_this_tree(self):
        self.assertEqual([str(violation) for violation in include_graph.check(ROOT)], [])


if __name__ == "__main__":
    unittest.main()

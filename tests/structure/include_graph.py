"""Checks the structure of the source tree: who may include what.

    python3 tests/structure/include_graph.py [ROOT]

Prints one line per violation, FILE:LINE: RULE: what is wrong, and exits 1 if
there is any. Reads text only, so it needs no build. Rules:

    layer      a folder includes only the folders it may depend on
    library    a third-party header stays in the folder that wraps it
    full-path  quoted includes are paths from the root, or public headers
    cycle      no file includes itself through others
    content    constructs a folder may not use (OpenMP in kernels, printing in
               the library, instruction sets outside kernels)
    size       sources have at most 600 lines
    top-level  the root holds the entries listed here and no others

tests/ and bench/ may depend on anything; size, full-path, cycle and top-level
hold for them too.
"""

import argparse
import dataclasses
import fnmatch
import os
import pathlib
import re
import sys

LINES_MAX = 600

# Folder -> folders its files may include, besides itself.
LAYERS = {
    "kernels": set(),
    "libquashdb": {"kernels"},
    "kvcache": {"kernels"},
    "cli": set(),
    "bindings": set(),
    "datasets": set(),
}
FREE_FOLDERS = {"tests", "bench"}

# Included by their bare names, by every folder but kernels. Where they are.
PUBLIC_HEADERS = {
    "quashdb.h": "libquashdb/include/quashdb.h",
    "quash_kv.h": "kvcache/include/quash_kv.h",
    "quash_kv_cuda.h": "kvcache/include/quash_kv_cuda.h",
    "quash_quantizer.h": "kvcache/include/quash_quantizer.h",
    "quashdb.hpp": "bindings/cpp/quashdb.hpp",
}

TOP_LEVEL = {"CMakeLists.txt", "CMakePresets.json", "CHANGELOG.md", "CONTRIBUTING.md", "HACKING.md",
             "LICENSE", "README.md", "pyproject.toml"} | set(LAYERS) | FREE_FOLDERS

CPP_SUFFIXES = {".h", ".hpp", ".cc", ".cpp", ".c", ".cu", ".cuh"}
PYTHON_SUFFIXES = {".py", ".pyi"}
SOURCE_SUFFIXES = CPP_SUFFIXES | PYTHON_SUFFIXES | {".fbs", ".cmake", ".sh"}

# Written by flatc into the build tree.
GENERATED = re.compile(r"^(\w+)_generated\.h$")

# Header pattern -> (folders that may include it, its name).
LIBRARY_HEADERS = [
    (re.compile(r"^rocksdb/"), {"libquashdb"}, "RocksDB"),
    (re.compile(r"^flatbuffers/|_generated\.h$"), {"libquashdb"}, "FlatBuffers"),
    (re.compile(r"^(\w*mmintrin|\w+intrin|arm_neon|arm_sve|cpuid)\.h$"), {"kernels"},
     "compiler intrinsics"),
    (re.compile(r"^xsimd/"), {"kernels"}, "xsimd"),
    (re.compile(r"^omp\.h$"), {"libquashdb", "kvcache", "cli"}, "OpenMP"),
    (re.compile(r"^(thread|fstream|iostream|filesystem|future)$"),
     {"libquashdb", "kvcache", "cli", "bindings"}, "threads and I/O"),
    (re.compile(r"^(torch|ATen|c10|pybind11)/|^Python\.h$"), {"bindings"}, "torch and Python"),
]


@dataclasses.dataclass(frozen=True)
class ContentRule:
    """A line of code that the folders may not have."""
    folders: frozenset
    suffixes: frozenset
    pattern: re.Pattern
    message: str


def _rule(folders, suffixes, pattern, message):
    return ContentRule(frozenset(folders), frozenset(suffixes), re.compile(pattern), message)


CONTENT_RULES = [
    _rule({"kernels"}, CPP_SUFFIXES, r"#\s*pragma\s+omp\b|_Pragma\(\s*\"omp",
          "OpenMP in kernels; callers own the threads"),
    _rule(set(LAYERS) - {"kernels"}, CPP_SUFFIXES, r"\b_mm(256|512)?_\w+\s*\(|__builtin_ia32_",
          "intrinsics belong in kernels"),
    _rule({"kernels", "libquashdb", "kvcache"}, CPP_SUFFIXES,
          r"\bstd::(cout|cerr|clog)\b|(?<![\w.>])(std::)?f?printf\s*\(|\bfmt::print\s*\(",
          "the library never prints"),
    _rule({"kernels", "libquashdb", "kvcache"}, CPP_SUFFIXES,
          r"(?<![\w.>])(?<!::)(std::)?(abort|exit|_exit|terminate)\s*\(",
          "the library never ends the process"),
    _rule(set(LAYERS) - {"bindings"}, PYTHON_SUFFIXES, r"^\s*(import|from)\s+torch\b",
          "torch belongs in bindings"),
    _rule(set(LAYERS) - {"kernels"}, {"CMakeLists.txt", ".cmake"},
          r"(^|[\s\";(])-m(avx|fma|f16c|bmi|sse|arch)",
          "instruction sets are named in kernels only"),
    _rule({"kernels"}, {"CMakeLists.txt", ".cmake"}, r"OpenMP::|find_package\(\s*OpenMP",
          "OpenMP in kernels; callers own the threads"),
    _rule({"cli", "bindings"}, {"CMakeLists.txt", ".cmake"},
          r"\b(quashdb_core|quash_kernels|ROCKSDB|flatbuffers)\b",
          "links internals; use the public library"),
]


@dataclasses.dataclass(frozen=True, order=True)
class Violation:
    """One finding; line 0 stands for the whole file."""
    path: str
    line: int
    rule: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def ignored_patterns(root):
    """Name patterns of the root's .gitignore; build trees and caches."""
    ignore_file = root / ".gitignore"
    if not ignore_file.exists():
        return []
    lines = ignore_file.read_text(encoding="utf-8").splitlines()
    return [line.strip().strip("/") for line in lines if line.strip() and line[0] != "#"]


def is_skipped(name, patterns):
    """Hidden entries hold tools' settings, the ignored ones their output."""
    return name.startswith(".") or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def source_files(root, patterns):
    """Paths from the root with "/", sorted."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not is_skipped(name, patterns)]
        for name in names:
            if is_skipped(name, patterns):
                continue
            path = pathlib.Path(folder, name)
            if path.suffix in SOURCE_SUFFIXES or name == "CMakeLists.txt":
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


_COMMENT_OR_STRING = re.compile(
    r'//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z)|R"(?P<d>[^()\s\\]{0,16})\(.*?\)(?P=d)"'
    r'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)


def strip_comments(text):
    """C++ with comments and string contents blanked, lines kept. Include
    paths and the argument of _Pragma stay."""
    def blank(match):
        token = match.group()
        if token[0] == '"':
            line_start = text.rfind("\n", 0, match.start()) + 1
            before = text[line_start:match.start()]
            if re.fullmatch(r"\s*#\s*include\s*|.*_Pragma\(\s*", before):
                return token
        if token[0] == "'":
            return token
        newlines = re.sub(r"[^\n]", "", token)
        return newlines if token[0] == "/" else f'"{newlines}"'
    return _COMMENT_OR_STRING.sub(blank, text)


_INCLUDE = re.compile(r'^\s*#\s*include\s*(<([^>]+)>|"([^"]+)")')


def read_lines(root, path):
    """Lines of code, comments blanked."""
    text = (root / path).read_text(encoding="utf-8", errors="replace")
    suffix = pathlib.PurePosixPath(path).suffix
    if suffix in CPP_SUFFIXES:
        return strip_comments(text).splitlines()
    if suffix in PYTHON_SUFFIXES or path.endswith("CMakeLists.txt") or suffix == ".cmake":
        return [line.split("#", 1)[0] for line in text.splitlines()]
    return text.splitlines()


def check_include(path, number, header, is_quoted, known):
    """Returns (violations, included project file or None) of one include."""
    folder = path.split("/", 1)[0]
    is_free = folder in FREE_FOLDERS
    violations = []

    def fail(rule, message):
        violations.append(Violation(path, number, rule, message))

    for pattern, folders, name in LIBRARY_HEADERS:
        if pattern.search(header) and folder not in folders and not is_free:
            fail("library",
                 f"{name} ({header}) may be included only in {', '.join(sorted(folders))}")
    if header in PUBLIC_HEADERS:
        if folder == "kernels":
            fail("layer", f"kernels may not include the public header {header}")
        target = PUBLIC_HEADERS[header]
        return violations, target if target in known else None
    target = header if header in known else None
    if is_quoted and target is None and not GENERATED.match(header):
        fail("full-path", f'"{header}" is no file from the root, public header or generated header')
    if target is not None:
        owner = target.split("/", 1)[0]
        if owner in TOP_LEVEL and owner != folder and not is_free and folder in LAYERS:
            if owner not in LAYERS[folder]:
                allowed = sorted(LAYERS[folder]) + ["public headers"]
                if folder == "kernels":
                    allowed = ["nothing outside itself"]
                fail("layer", f"{folder} may not include {target}; it may include "
                              f"{', '.join(allowed)}")
    return violations, target


def find_cycles(graph):
    """One violation per group of files that include each other.

    graph: path -> {included path: line}
    """
    violations, state, stack = [], {}, []

    def visit(path):
        # Depth of the include graph, far below Python's recursion limit.
        state[path] = "open"
        stack.append(path)
        for target, line in sorted(graph.get(path, {}).items()):
            if state.get(target) == "open":
                chain = stack[stack.index(target):] + [target]
                violations.append(Violation(path, line, "cycle", " -> ".join(chain)))
            elif target not in state:
                visit(target)
        stack.pop()
        state[path] = "done"

    for path in sorted(graph):
        if path not in state:
            visit(path)
    return violations


def check(root):
    """All violations of the tree at root, sorted by file and line."""
    root = pathlib.Path(root).resolve()
    patterns = ignored_patterns(root)
    paths = source_files(root, patterns)
    known = set(paths)
    violations, graph = [], {}
    for name in sorted(os.listdir(root)):
        if name not in TOP_LEVEL and not is_skipped(name, patterns):
            violations.append(Violation(name, 0, "top-level",
                                        f"not one of {', '.join(sorted(TOP_LEVEL))}"))
    for path in paths:
        lines = read_lines(root, path)
        if len(lines) > LINES_MAX:
            violations.append(Violation(path, len(lines), "size",
                                        f"{len(lines)} lines, at most {LINES_MAX}"))
        folder, suffix = path.split("/", 1)[0], pathlib.PurePosixPath(path).suffix
        kind = "CMakeLists.txt" if path.endswith("CMakeLists.txt") else suffix
        rules = [rule for rule in CONTENT_RULES if folder in rule.folders and kind in rule.suffixes]
        for number, line in enumerate(lines, 1):
            for rule in rules:
                if match := rule.pattern.search(line):
                    violations.append(Violation(path, number, "content",
                                                f"{match.group().strip()}: {rule.message}"))
            match = _INCLUDE.match(line) if suffix in CPP_SUFFIXES else None
            if match:
                header = match.group(2) or match.group(3)
                found, target = check_include(path, number, header, match.group(3) is not None,
                                              known)
                violations += found
                if target is not None:
                    graph.setdefault(path, {}).setdefault(target, number)
    return sorted(violations + find_cycles(graph))


def main():
    parser = argparse.ArgumentParser(description="Checks the structure of the source tree.")
    parser.add_argument("root", type=pathlib.Path, nargs="?",
                        default=pathlib.Path(__file__).resolve().parents[2])
    arguments = parser.parse_args()
    violations = check(arguments.root)
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The release tier: everything that ctest runs, at the counts of a release.

    python3 tests/release.py                       all of it, about twelve hours
    python3 tests/release.py --factor 0.1          a tenth of each count
    python3 tests/release.py --only crash,oom      some of it
    python3 tests/release.py --list

Builds build/ and, for the fuzzers and thread checks, build-fuzz/ and build-tsan/
first, unless --no-build. Every item is a command of its own, which is printed
before it runs and repeats it; the log of item NAME is OUT/NAME.log. A failure's
log names its seed. Results: OUT/release.md and OUT/release.json, written after
each item. The exit status is 1 if one failed.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARSERS = ("statement", "filter", "npy", "fvecs", "jsonl")
SKIPPED = 77  # the exit status of a test that this machine cannot run


class Item:
    """One line of the table.

    count: of the release; what it counts is `unit`.
    command: count -> the words to run.
    done: pattern of the count reached in the log, its group 1; default: all, if it passed.
    """

    def __init__(self, name, unit, count, command, done=None, env=None, build="build"):
        self.name, self.unit, self.count, self.command = name, unit, count, command
        self.done, self.env, self.build = done, env or {}, build


def fault(suite, option, name=None):
    def command(count, seed, build):
        words = [f"{build}/tests/fault/fault_test", f"--test-suite={suite}", "--seed", str(seed)]
        return words + ([option, str(count)] if option else [])

    return command


def fuzzer(name, max_len, rss, timeout):
    def command(count, seed, build):
        new = pathlib.Path(build).parent / "build-fuzz" / "new" / name
        new.mkdir(parents=True, exist_ok=True)
        words = [
            f"{ROOT}/build-fuzz/tests/fuzz/{name}_fuzz", f"-runs={count}", f"-seed={seed}",
            f"-max_len={max_len}", f"-rss_limit_mb={rss}", f"-timeout={timeout}",
            "-print_final_stats=1", f"-artifact_prefix={new.parent}/{name}-", str(new),
        ]  # fmt: skip
        corpus = ROOT / "tests/fuzz/corpus" / name
        return words + ([str(corpus)] if corpus.is_dir() else [])

    return command


def pytest(file):
    return lambda count, seed, build: [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        f"--hypothesis-seed={seed}", str(ROOT / "tests/python" / file),
    ]  # fmt: skip


def ctest(pattern, build=None, repeat=True):
    def command(count, seed, folder):
        words = ["ctest", "--test-dir", build or folder, "-R", pattern, "--output-on-failure"]
        return words + (["--repeat", f"until-fail:{count}"] if repeat else [])

    return command


def churn(count, seed, build):
    return [f"{build}/bench/churn/churn_bench", "--db", f"{build}/churn", "--operations",
            str(count), "--seed", str(seed)]  # fmt: skip


TSAN = {
    "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1 suppressions={ROOT}/tests/tsan.supp",
    "OMP_TOOL_LIBRARIES": "/usr/lib/llvm-14/lib/libarcher.so",
}
EXECUTIONS = r"stat::number_of_executed_units:\s*(\d+)"
ITEMS = [
    Item("crash", "killed writers", 10_000, fault("crash", "--cycles"), r"(\d+) kills"),
    Item("power", "images after a power cut", 10_000, fault("power_loss", "--images"),
         r"(\d+) images"),
    # 0: every call in every way; with a factor, places per kind of call.
    Item("io", "failing file calls (0: all)", 0, fault("failing_io", "--io-failures")),
    Item("oom", "failing allocations per call (0: all)", 0,
         fault("allocation", "--allocations"), r"(\d+) allocations in"),
    Item("damage", "bits flipped per file", 2500, fault("damage", "--flips")),
    Item("records", "values changed", 50_000, fault("records", "--records"), r"(\d+) values"),
    Item("full_disk", "disks filled", 200, fault("full_disk", "--disks"), r"(\d+) disks"),
    Item("writes", "size limits", 1, fault("failing_writes", None)),
    Item("shell", "failing calls of the shipped shell", 200, fault("shell", "--shells"),
         r"(\d+) runs"),
    *(Item(f"fuzz.{name}", "executions", 100_000_000, fuzzer(name, 4096, 256, 1), EXECUTIONS,
           build="build-fuzz") for name in PARSERS),
    Item("fuzz.record", "executions", 10_000_000, fuzzer("record", 4096, 256, 1), EXECUTIONS,
         build="build-fuzz"),
    Item("fuzz.api", "executions", 10_000_000, fuzzer("api", 2048, 1024, 10), EXECUTIONS,
         build="build-fuzz"),
    Item("fuzz.kv", "executions", 10_000_000, fuzzer("kv", 2048, 1024, 10), EXECUTIONS,
         build="build-fuzz"),
    Item("stateful", "sequences of 50 steps", 10_000, pytest("test_stateful.py")),
    Item("threads", "repetitions", 100, ctest("^capi.threads$|^kvcache.threads$")),
    Item("tsan", "repetitions", 20, ctest("^(capi|library)", f"{ROOT}/build-tsan"), env=TSAN,
         build="build-tsan"),
    Item("processes", "repetitions", 200, ctest("^capi.processes$")),
    Item("golden", "repetitions", 500, ctest("^golden$")),
    Item("limits", "repetitions", 1, ctest("^capi.bad_input$")),
    Item("churn", "rows written or deleted", 20_000_000, churn, r'"operations": (\d+),\n "rows"'),
]  # fmt: skip


def build(names):
    presets = {"build": "release", "build-fuzz": "fuzz", "build-tsan": "tsan"}
    for name in sorted(names):
        for words in (["cmake", "--preset"], ["cmake", "--build", "--preset"]):
            subprocess.run([*words, presets[name]], cwd=ROOT, check=True)


def environment(item, count, folder):
    env = dict(os.environ, **item.env)
    env["QUASHDB_LIBRARY"] = f"{folder}/libquashdb/libquashdb.so"
    if item.name == "stateful":
        env |= {"QUASHDB_STATEFUL_EXAMPLES": str(count), "QUASHDB_STATEFUL_STEPS": "50"}
    return env


def run(item, options):
    """Runs one item and gives its row of the table."""
    count = item.count if item.count == 0 and options.factor >= 1 else max(
        1, round((item.count or 1000) * options.factor))  # fmt: skip
    words = [str(w) for w in item.command(count, options.seed, options.build)]
    print("+", shlex.join(words), flush=True)
    log = options.out / f"{item.name}.log"
    begin = time.monotonic()
    with log.open("w") as file:
        try:
            code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                                  env=environment(item, count, options.build),
                                  timeout=options.timeout).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = None
    text = log.read_text(errors="replace")
    reached = [int(n) for n in re.findall(item.done, text)] if item.done else []
    outcome = {0: "passed", SKIPPED: "skipped", None: "out of time"}.get(code, "FAILED")
    row = {
        "name": item.name, "unit": item.unit, "asked": item.count, "count": count,
        "reached": sum(reached) if reached else count if code == 0 else None,
        "seconds": round(time.monotonic() - begin, 1), "outcome": outcome,
        "command": shlex.join(words),
    }  # fmt: skip
    print(f"  {outcome} after {row['seconds']} s; {log}", flush=True)
    if outcome == "FAILED":
        print(text[-3000:], flush=True)
    return row


def write(rows, out):
    (out / "release.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| item | what | asked | reached | seconds | outcome |", "|---|---|---|---|---|---|"]
    for row in rows:
        reached = "" if row["reached"] is None else f"{row['reached']:,}"
        lines.append(f"| {row['name']} | {row['unit']} | {row['asked']:,} | {reached} | "
                     f"{row['seconds']:,} | {row['outcome']} |")  # fmt: skip
    (out / "release.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--factor", type=float, default=1, help="of every count")
    parser.add_argument("--only", default="", help="names, with commas; fuzz takes all fuzz.*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, help="seconds for one item")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "release-tier")
    parser.add_argument("--no-build", action="store_true", help="everything is built already")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name]
    items = [i for i in ITEMS if not chosen or i.name in chosen or i.name.split(".")[0] in chosen]
    known = {i.name for i in ITEMS} | {i.name.split(".")[0] for i in ITEMS}
    if unknown := set(chosen) - known:
        parser.error(f"no item {', '.join(sorted(unknown))}; --list shows them")
    if options.list:
        for item in items:
            print(f"{item.name:16} {item.count:>12,} {item.unit}")
        return 0
    options.build, options.out = options.build.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.no_build:
        build({item.build for item in items} | {"build"})
    rows = []
    for item in items:
        rows.append(run(item, options))
        write(rows, options.out)
    return any(row["outcome"] == "FAILED" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The reliability tiers: killed processes, power cuts, failing calls, damage, fuzzers,
threads, churn, each at its count of the tier.

    python3 tests/reliability.py ci                 under 10 minutes on two idle cores
    python3 tests/reliability.py release            about twelve hours, in the background
    python3 tests/reliability.py release --only crash,oom --factor 0.1
    python3 tests/reliability.py release --continue --seconds 1800
    python3 tests/reliability.py ci --list

Builds build/ and, for fuzzers and thread checks, build-fuzz/, build-fuzz-fast/ and
build-tsan/ first, unless --no-build; without clang-14 what needs it is skipped. Every
item is a command of its own, which is printed before it runs and repeats it; the log of
item NAME is OUT/NAME.log, and a failure's log names its seed. Results: OUT/runs.jsonl
has a line for each run with the state of the sources it was made on, OUT/results.md the
sums. Runs of other days are added up; seeds go on after theirs, and --continue asks for
what is still missing of each count. The exit status is 1 if one failed. README.md here
says what each item proves.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Executions in the release tier without and with AddressSanitizer, longest input of each,
# memory in MiB, seconds for an input (of a clock that runs on while other jobs have the cores).
FUZZERS = (
    *((name, 100_000_000, 10_000_000, 256, 4096, 256, 60)
      for name in ("statement", "filter", "npy", "fvecs", "jsonl")),
    ("record", 10_000_000, 1_000_000, 256, 4096, 256, 60),
    ("api", 10_000_000, 1_000_000, 64, 512, 1024, 60),
    ("kv", 10_000_000, 1_000_000, 96, 512, 1024, 60),
)  # fmt: skip
SKIPPED = 77  # the exit status of a test that this machine cannot run
FUZZ_SECONDS = 60  # of each fuzzer in the CI tier


class Item:
    """One line of the table.

    ci, release: counts; what they count is `unit`. None: not in this tier.
    command: (count, options) -> the words to run.
    done: pattern of the count reached in the log, its group 1; default: all, if it passed.
    """

    def __init__(self, name, unit, ci, release, command, done=None, env=None, build="build"):
        self.name, self.unit, self.counts = name, unit, {"ci": ci, "release": release}
        self.command, self.done, self.env, self.build = command, done, env or {}, build


def fault(suite, option=None, *more):
    def command(count, options):
        words = [f"{options.build}/tests/fault/fault_test", f"--test-suite={suite}",
                 "--seed", options.seed]  # fmt: skip
        if options.seconds:
            words += ["--seconds", options.seconds]
        return words + ([option, count] if option else []) + list(more)

    return command


def script(file, option, *paths):
    def command(count, options):
        return [options.python, ROOT / "tests/fault" / file, *(options.build / p for p in paths),
                option, count, "--seed", options.seed]  # fmt: skip

    return command


def fuzzer(name, build, max_len, rss, timeout):
    """With counts, that many executions; in the CI tier for FUZZ_SECONDS.

    What one build finds is in the corpus of the other."""

    def command(count, options):
        folder = ROOT / build / "tests/fuzz"
        new = ROOT / "build-fuzz/new" / name
        new.mkdir(parents=True, exist_ok=True)
        words = [
            folder / f"{name}_fuzz", f"-runs={count}", f"-seed={options.seed}",
            f"-max_len={max_len}", f"-rss_limit_mb={rss}", f"-timeout={timeout}", "-entropic=0",
            # Leaks are looked for at the end: after each input that changes a cache, as all of
            # api do, it takes most of the time.
            "-detect_leaks=0", "-reload=0", "-print_final_stats=1",
            f"-artifact_prefix={new.parent}/{name}-", new,
        ]  # fmt: skip
        if options.seconds or options.tier == "ci":
            words.insert(2, f"-max_total_time={options.seconds or FUZZ_SECONDS}")
        corpus = ROOT / "tests/fuzz/corpus" / name
        return words + ([corpus] if corpus.is_dir() else [])

    return command


def pytest(file):
    return lambda count, options: [
        options.python, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        f"--hypothesis-seed={options.seed}", ROOT / "tests/python" / file,
    ]  # fmt: skip


def ctest(pattern, build=None):
    return lambda count, options: [
        "ctest", "--test-dir", build or options.build, "-R", pattern, "--output-on-failure",
        "--repeat", f"until-fail:{count}",
    ]  # fmt: skip


def churn(count, options):
    words = [f"{options.build}/bench/churn/churn_bench", "--db", f"{options.build}/churn",
             "--operations", count, "--seed", options.seed]  # fmt: skip
    return words + (["--seconds", options.seconds] if options.seconds else [])


def kv_random(count, options):
    return [f"{options.build}/tests/fuzz/kv_random", count, options.seed, options.seconds or 0]


TSAN = {
    "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1 suppressions={ROOT}/tests/tsan.supp",
    "OMP_TOOL_LIBRARIES": "/usr/lib/llvm-14/lib/libarcher.so",
}
EXECUTIONS = r"stat::number_of_executed_units:\s*(\d+)"
ITEMS = [
    Item("crash", "killed writers", 300, 10_000, fault("crash", "--cycles"), r"(\d+) kills"),
    Item("power", "images after a power cut", 500, 10_000, fault("power_loss", "--images"),
         r"(\d+) images"),
    # Places per kind of call; 0: every call in every way.
    Item("io", "failing file calls", 45, 0, fault("failing_io", "--io-failures"), r"(\d+) runs"),
    Item("shell", "failing calls of the shipped shell", 20, 200,
         script("shell_faults.py", "--runs", "cli/quashdb", "tests/fault/libquash_failing_io.so"),
         r"(\d+) runs"),
    # Places per call; 0: every one.
    Item("oom", "failing allocations", 12, 0, fault("allocation", "--allocations"),
         r"calls, (\d+) failed"),
    Item("oom.chains", "failing allocations, two of each chain of calls", None, 2,
         fault("allocation", "--per-stack", "--allocations", 0), r"calls, (\d+) failed"),
    Item("damage", "damaged files", 500, 50_000, fault("damage", "--flips"),
         r"(\d+) files damaged"),
    Item("records", "values changed", 200, 10_000, fault("records", "--records"), r"(\d+) values"),
    Item("hdf5", "damaged HDF5 files", 200, 5000, script("hdf5_damage.py", "--files"),
         r"(\d+) files"),
    Item("full_disk", "disks filled", 3, 200, fault("full_disk", "--disks"), r"(\d+) disks"),
    Item("writes", "sizes beyond limits, in one run", 1, 1, fault("failing_writes")),
    # Short inputs without AddressSanitizer, many; then with it, what these found and others.
    *(Item(f"fuzz.{name}.fast", "executions without AddressSanitizer", None, count,
           fuzzer(name, "build-fuzz-fast", max_len, rss, timeout), EXECUTIONS,
           build="build-fuzz-fast")
      for name, count, _, max_len, _, rss, timeout in FUZZERS),
    *(Item(f"fuzz.{name}", "executions with AddressSanitizer", -1, count,
           fuzzer(name, "build-fuzz", max_len, rss, timeout), EXECUTIONS, build="build-fuzz")
      for name, _, count, _, max_len, rss, timeout in FUZZERS),
    Item("random.kv", "executions, without sanitizers", 20_000, 10_000_000, kv_random,
         r"(\d+) rounds"),
    Item("stateful", "sequences of 50 steps", 200, 10_000, pytest("test_stateful.py")),
    Item("threads", "repetitions", 5, 100, ctest("^capi.threads$|^kvcache.threads$")),
    Item("tsan", "repetitions", 1, 20, ctest("^capi.threads$", f"{ROOT}/build-tsan"), env=TSAN,
         build="build-tsan"),
    Item("processes", "repetitions", 4, 200, ctest("^capi.processes$")),
    Item("golden", "repetitions", 1, 20, ctest("^golden$")),
    Item("limits", "repetitions", 1, 1, ctest("^capi.bad_input$")),
    Item("ray", "repetitions, shards and drivers killed", None, 20, ctest("^python_integrations$"),
         env={"QUASHDB_RAY_FAULTS": "1"}),
    Item("churn", "rows written or deleted", None, 20_000_000, churn, r'"operations": (\d+),'),
]  # fmt: skip


def build(names):
    presets = {"build": "release", "build-fuzz": "fuzz", "build-fuzz-fast": "fuzz-fast",
               "build-tsan": "tsan"}  # fmt: skip
    for name in sorted(names):
        for words in (["cmake", "--preset"], ["cmake", "--build", "--preset"]):
            subprocess.run([*words, presets[name]], cwd=ROOT, check=True)


def memory_folder():
    """Where files cost no disk: faults are made in calls and processes, not by disks."""
    folder = pathlib.Path("/dev/shm")
    has_room = folder.is_dir() and shutil.disk_usage(folder).free >= 1 << 30
    return {"TMPDIR": str(folder)} if has_room and "TMPDIR" not in os.environ else {}


def environment(item, count, options):
    # Threads that wait do not spin: other tests want the cores.
    env = dict(os.environ, OMP_WAIT_POLICY="passive", PYTHONDONTWRITEBYTECODE="1",
               **memory_folder(), **item.env)  # fmt: skip
    if item.build == "build-fuzz":
        # Where memory was allocated is of interest once something is found; then the
        # input is run again.
        env.setdefault("ASAN_OPTIONS", "malloc_context_size=0:quarantine_size_mb=16")
    env["QUASHDB_LIBRARY"] = f"{options.build}/libquashdb/libquashdb.so"
    if item.name == "stateful":
        env |= {"QUASHDB_STATEFUL_EXAMPLES": str(count), "QUASHDB_STATEFUL_STEPS": "50"}
    return env


def state():
    """Of the sources: the commit, with a mark if files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+changes", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def earlier_runs(options):
    file = options.out / "runs.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run(item, options, earlier):
    """Runs one item and gives its row, or None if nothing is missing of its count."""
    whole = item.counts[options.tier]
    before = sum(row["reached"] or 0 for row in earlier if row["name"] == item.name)
    count = whole if whole <= 1 and options.factor >= 1 else max(
        1, round((whole if whole > 0 else 1000) * options.factor))  # fmt: skip
    if options.go_on and whole > 1:
        if before >= whole:
            return None
        count = min(count, whole - before)
    options = argparse.Namespace(**{**vars(options), "seed": options.seed + before})
    words = [str(word) for word in item.command(count, options)]
    print("+", shlex.join(words), flush=True)
    log = options.out / f"{item.name}.log"
    begin = time.monotonic()
    with log.open("w") as file:
        code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                              env=environment(item, count, options)).returncode  # fmt: skip
    text = log.read_text(errors="replace")
    found = re.finditer(item.done, text) if item.done else ()
    reached = [int(next(group for group in match.groups() if group)) for match in found]
    outcome = {0: "passed", SKIPPED: "skipped"}.get(code, "FAILED")
    row = {
        "name": item.name, "unit": item.unit, "asked": whole, "count": count,
        "reached": sum(reached) if reached else count if code == 0 else None,
        "seconds": round(time.monotonic() - begin, 1), "outcome": outcome, "state": state(),
        "command": shlex.join(words),
    }  # fmt: skip
    print(f"  {item.name}: {outcome} after {row['seconds']} s; {log}", flush=True)
    if outcome == "FAILED":
        print(text[-3000:], flush=True)
    return row


def write(rows, out):
    """Sums of all runs, by item and state."""
    lines = ["| item | what | asked | reached | runs | seconds | state | outcome |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    sums = {}
    for row in rows:
        sums.setdefault((row["name"], row["state"]), []).append(row)
    for (name, on), runs in sums.items():
        reached = sum(row["reached"] or 0 for row in runs)
        outcomes = ", ".join(sorted({row["outcome"] for row in runs}))
        asked = {-1: "", 0: "all"}.get(runs[0]["asked"], f"{runs[0]['asked']:,}")
        seconds = round(sum(row["seconds"] for row in runs), 1)
        lines.append(f"| {name} | {runs[0]['unit']} | {asked} | {reached:,} | {len(runs)} | "
                     f"{seconds:,} | {on} | {outcomes} |")  # fmt: skip
    (out / "results.md").write_text("\n".join(lines) + "\n")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tier", choices=("ci", "release"))
    parser.add_argument("--factor", type=float, default=1, help="of every count")
    parser.add_argument("--only", default="", help="names, with commas; fuzz takes all fuzz.*")
    parser.add_argument("--seed", type=int, default=1, help="of the first run in OUT")
    parser.add_argument("--continue", dest="go_on", action="store_true",
                        help="only what runs in OUT have left of each count")
    parser.add_argument("--seconds", type=int, help="end fault tests, fuzzers and churn after "
                        "this time, with the count reached")  # fmt: skip
    parser.add_argument("--jobs", type=int, help="items at a time (default: ci 2, release 1)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--python", default=sys.executable,
                        help="with pytest, hypothesis, numpy and h5py")
    parser.add_argument("--out", type=pathlib.Path, help="default: build/reliability-TIER")
    parser.add_argument("--no-build", action="store_true", help="everything is built already")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = {name for name in options.only.split(",") if name}
    items = [i for i in ITEMS if i.counts[options.tier] is not None
             and (not chosen or {i.name, i.name.split(".")[0]} & chosen)]  # fmt: skip
    known = {i.name for i in ITEMS} | {i.name.split(".")[0] for i in ITEMS}
    if unknown := chosen - known:
        parser.error(f"no item {', '.join(sorted(unknown))}; --list shows them")
    options.build = options.build.resolve()
    options.out = (options.out or ROOT / f"build/reliability-{options.tier}").resolve()
    options.jobs = options.jobs or {"ci": 2, "release": 1}[options.tier]
    return options, items


def main():
    options, items = parse()
    if options.list:
        for item in items:
            count = item.counts[options.tier]
            shown = f"{FUZZ_SECONDS} s" if count < 0 else "all" if count == 0 else f"{count:,}"
            print(f"{item.name:20} {shown:>12} {item.unit}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    earlier = earlier_runs(options)
    rows = []
    if shutil.which("clang++-14") is None:
        missing = [item for item in items if item.build != "build"]
        items = [item for item in items if item.build == "build"]
        rows += [{"name": item.name, "unit": item.unit, "asked": item.counts[options.tier],
                  "count": 0, "reached": None, "seconds": 0, "outcome": "skipped: no clang-14",
                  "state": state(), "command": ""} for item in missing]  # fmt: skip
    if not options.no_build:
        build({item.build for item in items} | {"build"})
    lock = threading.Lock()

    def run_and_write(item):
        row = run(item, options, earlier)
        if row is None:
            return
        with lock:
            rows.append(row)
            with (options.out / "runs.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            write(earlier + rows, options.out)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(run_and_write, item) for item in items]:
            done.result()
    write(earlier + rows, options.out)
    print((options.out / "results.md").read_text(), end="")
    return any(row["outcome"] == "FAILED" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

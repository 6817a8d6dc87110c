"""The shipped shell while its file calls fail: it says so, ends by itself, and
what it has shown as stored is there afterwards.

    shell_faults.py QUASHDB PRELOAD [--runs N] [--seed S]

PRELOAD: libquash_failing_io.so (failing_io.h), loaded before the unchanged
programs. Run i takes everything from seed + i; --seed S --runs 1 repeats one.
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

KINDS = ("write", "sync", "read", "open", "create", "rename")
ERRORS = ("EIO", "ENOSPC", "short")
BATCHES, ROWS = 8, 40


def script():
    """Batches of rows, the number stored after each, then searches."""
    lines = []
    for batch in range(BATCHES):
        rows = ", ".join(
            f"('r{batch}-{row}', [{row % 7 - 3}, {batch}, {row % 5}], {batch}, 'text {row}')"
            for row in range(ROWS))
        lines.append(f"INSERT INTO docs (id, vector, batch, document) VALUES {rows};")
        lines.append("SELECT COUNT(*) FROM docs;")
    return "\n".join([*lines, "SELECT id FROM docs NEAREST TO [0, 1, 2] LIMIT 3;", ""])


class Shell:
    def __init__(self, program, preload, folder):
        self.program, self.preload, self.folder = program, preload, folder
        self.report = folder / "report"

    def run(self, arguments, text="", failing=None, path=None):
        """(exit code, output, errors, calls counted, calls failed)"""
        env = dict(os.environ, HOME=str(self.folder), OMP_WAIT_POLICY="passive")
        self.report.unlink(missing_ok=True)
        if failing:
            env |= {"LD_PRELOAD": str(self.preload), "QUASH_FAILING_DIRECTORY": str(path),
                    "QUASH_FAILING_IO": failing, "QUASH_FAILING_REPORT": str(self.report)}
        done = subprocess.run([self.program, *arguments], input=text, capture_output=True,
                              text=True, env=env, timeout=300, check=False)
        counts = self.report.read_text().split() if self.report.exists() else (0, 0)
        return done.returncode, done.stdout, done.stderr, int(counts[0]), int(counts[1])

    def write(self, path, failing):
        return self.run(["--batch", "--mode", "list", "--durability", "full", str(path)],
                        ".headers off\n" + script(), failing, path)


def counts_shown(output):
    return [int(line) for line in output.splitlines() if line.strip().isdigit()]


def check_after(shell, path, acknowledged):
    """What is wrong with the database, opened by a shell whose calls work."""
    code, output, errors, *_ = shell.run(["--mode", "list", str(path)],
                                         ".headers off\nSELECT COUNT(*) FROM docs;\n")
    if code != 0:
        return f"opening again: exit {code}: {errors}"
    found = counts_shown(output)[0]
    if not acknowledged <= found <= acknowledged + ROWS or found % ROWS:
        return f"{found} rows are stored, {acknowledged} were shown as stored"
    code, output, errors, *_ = shell.run(["check", str(path)])
    return "" if code == 0 else f"check: exit {code}: {output}{errors}"


def run(shell, original, calls, seed):
    chosen = random.Random(seed)
    kind = chosen.randrange(len(KINDS))
    error = chosen.randrange(len(ERRORS))
    first = chosen.randint(1, calls[kind])
    how = chosen.choice(("once", "on"))
    path = shell.folder / "failing.qdb"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, path)
    code, output, errors, _, failed = shell.write(path, f"{kind} 0 {error} {first} {how}")
    what = f"seed {seed}: {KINDS[kind]} {first} of {calls[kind]} gives {ERRORS[error]} {how}: "
    shown = counts_shown(output)
    if code < 0 or code > 2:
        return failed, what + f"the shell ended with {code}: {errors}"
    if code != 0 and not errors.strip():
        return failed, what + f"exit {code} without a word"
    if code != 0 and not failed:
        return failed, what + f"exit {code} though nothing failed: {errors}"
    if code == 0 and len(shown) != BATCHES:
        return failed, what + f"exit 0 after {len(shown)} of {BATCHES} batches"
    wrong = check_after(shell, path, shown[-1] if shown else 0)
    return failed, what + wrong if wrong else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shell", type=pathlib.Path)
    parser.add_argument("preload", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder).resolve()
        shell = Shell(options.shell.resolve(), options.preload.resolve(), folder)
        original = folder / "original.qdb"
        code, _, errors, *_ = shell.run(
            ["--batch", str(original)],
            "CREATE COLLECTION docs (dim 3, metric l2, rerank f32, id string)"
            " FIELDS (batch INT);\n")
        if code != 0:
            sys.exit(f"the shell without failures: {errors}")
        calls = []
        for kind in range(len(KINDS)):
            path = folder / "counted.qdb"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(original, path)
            code, output, errors, counted, _ = shell.write(path, f"{kind} 0 0 0 once")
            if code != 0 or counts_shown(output)[-1] != BATCHES * ROWS or counted == 0:
                sys.exit(f"counting calls to {KINDS[kind]}: exit {code}, {counted}: {errors}")
            calls.append(counted)
        fired, problems = 0, []
        for seed in range(options.seed, options.seed + options.runs):
            failed, problem = run(shell, original, calls, seed)
            fired += failed > 0
            if problem:
                problems.append(problem)
                print(problem, flush=True)
    print(f"{options.runs} runs, {fired} with failures, {len(problems)} problems; calls: "
          + ", ".join(f"{kind} {n}" for kind, n in zip(KINDS, calls)))
    return 1 if problems or (options.runs >= 20 and fired == 0) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs each NAME.sql through the built shell in a fresh folder and compares
what it prints with NAME.expected.

    run_scripts.py QUASHDB FOLDER [--update]

Standard output comes first in an expected file, then standard error after a
line "-- stderr", then "-- exit N". --update writes the files anew. Afterwards
runs every subcommand, as README.md shows them, and tries to get past --safe.
"""

import difflib
import json
import os
import pathlib
import random as numbers
import signal
import subprocess
import sys
import tempfile


def run(shell, script):
    """The shell's output on a script, in the form of an expected file."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, HOME=folder, LC_ALL="C.UTF-8")
        with open(script, "rb") as lines:
            done = subprocess.run(
                [shell, "test.qdb"], stdin=lines, cwd=folder, env=environment,
                capture_output=True, timeout=60, check=False)
    text = done.stdout.decode().replace("\r\n", "\n")
    if done.stderr:
        text += "-- stderr\n" + done.stderr.decode()
    return text + f"-- exit {done.returncode}\n"


def check_subcommands(shell):
    """Runs them all; the export of a restored backup is that of the original."""
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder, "rows.jsonl")
        rows.write_text("".join(
            json.dumps({"id": f"row {n}", "vector": [n % 7 + 1, n % 5, 1], "part": n % 3,
                        "document": f"text {n}"}) + "\n" for n in range(100)))
        for words in (
                "import a.qdb docs --create rows.jsonl --rerank f32",
                "search a.qdb docs --id row\t3 --k 5 --filter part\t=\t0",
                "measure a.qdb docs --target 0.9 --apply",
                "bench a.qdb docs",
                "export a.qdb docs a.jsonl",
                "backup a.qdb b.qdb",
                "restore b.qdb c.qdb",
                "check c.qdb",
                "stats c.qdb",
                "compact c.qdb",
                "export c.qdb docs c.jsonl"):
            command = [word.replace("\t", " ") for word in words.split(" ")]
            done = subprocess.run([shell, *command], cwd=folder, capture_output=True, text=True,
                                  timeout=60, check=False)
            if done.returncode != 0:
                return f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        first, second = (pathlib.Path(folder, name).read_text() for name in ("a.jsonl", "c.jsonl"))
        if first != second or not first:
            return "the restored rows are not the original ones\n"
        done = subprocess.run([shell, "bench", "a.qdb", "docs", "--filter", "part = 7"], cwd=folder,
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 1 or "no row matches" not in done.stderr:
            return f"bench of no rows: exit {done.returncode}, {done.stdout}{done.stderr}\n"
        for table in pathlib.Path(folder, "c.qdb").rglob("*.sst"):
            with open(table, "r+b") as file:
                file.write(bytes(64))
        for words in (["check", "c.qdb"], ["c.qdb", "SELECT id, document FROM docs"],
                      ["restore", "c.qdb", "d.qdb"]):
            done = subprocess.run([shell, *words], cwd=folder, capture_output=True, text=True,
                                  timeout=60, check=False)
            if done.returncode != 3:
                return f"{words} on damage: exit {done.returncode}, {done.stderr}\n"
    return ""


def check_safe(shell):
    """With --safe nothing is read or written but the database: every way to do so
    is refused by name, and no file appears."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "rows.jsonl").write_text('{"id": 1, "vector": [1, 2]}\n')
        pathlib.Path(folder, "queries.npy").write_bytes(b"x")
        pathlib.Path(folder, "script.sql").write_text("SELECT COUNT(*) FROM docs;\n")
        subprocess.run([shell, "a.qdb", "CREATE COLLECTION docs (dim 2);"], cwd=folder,
                       capture_output=True, timeout=60, check=True)
        before = sorted(path.name for path in pathlib.Path(folder).iterdir())
        lines = (".read script.sql", ".open other.qdb", ".output out.txt", ".once out.txt",
                 ".import docs rows.jsonl", ".export docs out.jsonl", ".backup copy.qdb",
                 ".restore a.qdb copy.qdb", ".plot docs plot.png",
                 ".bench docs --queries queries.npy", ".measure docs --queries queries.npy",
                 "SELECT id FROM docs NEAREST TO FILE 'queries.npy';")
        words = ("import a.qdb docs rows.jsonl", "export a.qdb docs out.jsonl",
                 "backup a.qdb copy.qdb", "restore a.qdb copy.qdb", "plot a.qdb docs plot.png",
                 "search a.qdb docs --queries queries.npy",
                 "bench a.qdb docs --queries queries.npy")
        for arguments, text in ([(["--safe", "a.qdb"], line + "\n") for line in lines]
                                + [(["--safe", *line.split()], "") for line in words]):
            done = subprocess.run([shell, *arguments], input=text, cwd=folder, text=True,
                                  capture_output=True, timeout=60, check=False)
            if done.returncode == 0 or "not allowed with --safe" not in done.stderr:
                return (f"{arguments} {text}: exit {done.returncode}, expected to be refused\n"
                        f"{done.stdout}{done.stderr}")
        after = sorted(path.name for path in pathlib.Path(folder).iterdir())
        return "" if before == after else f"--safe: {before} became {after}\n"


def check_mistyped(shell):
    """Mistyped options are named; a mistyped subcommand makes no database of its name,
    nor does the import of a file that is not there; and a reader that has seen enough is
    no error."""
    with tempfile.TemporaryDirectory() as folder:
        for words, expected in (
                ("bench a.qdb --quereis q.npy", "did you mean --queries? (quashdb bench --help)"),
                ("--redaonly a.qdb", "did you mean --readonly? (quashdb --help)"),
                ("import a.qdb docs", "Error: file is required")):
            done = subprocess.run([shell, *words.split()], cwd=folder, capture_output=True,
                                  text=True, timeout=60, check=False)
            if done.returncode != 2 or expected not in done.stderr:
                return f"{words}: exit {done.returncode}, {done.stderr}"
        vectors = pathlib.Path(__file__).resolve().parents[2] / "datasets/sample/vectors.npy"
        for words in (["missing.jsonl"], [vectors, "--metadata", "missing.jsonl"]):
            done = subprocess.run([shell, "import", "a.qdb", "docs", "--create", *words],
                                  cwd=folder, capture_output=True, text=True, timeout=60,
                                  check=False)
            if done.returncode != 1 or "cannot read missing.jsonl" not in done.stderr:
                return f"import {words}: exit {done.returncode}, {done.stderr}"
        with subprocess.Popen([shell, ":memory:", ".help"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as unread:
            unread.stdout.close()
            if (text := unread.stderr.read()) or unread.wait(60) != 141:
                return f"closed pipe: exit {unread.returncode}, {text}\n"
        done = subprocess.run([shell, "chek", "a.qdb"], cwd=folder, capture_output=True, text=True,
                              timeout=60, check=False)
        wrong = done.returncode != 2 or "did you mean check?" not in done.stderr
        if wrong or os.listdir(folder):
            return f"chek: exit {done.returncode}, {done.stderr}, left {os.listdir(folder)}\n"
    return ""


def check_input(shell):
    """Where statements come from: files that cannot be read, byte order marks, blanks
    before a dot, Ctrl-C, which is told once."""
    with tempfile.TemporaryDirectory() as folder:
        def command(*words, text=""):
            done = subprocess.run([shell, *words], input=text, cwd=folder, capture_output=True,
                                  text=True, timeout=60, check=False)
            return done.returncode, done.stdout + done.stderr

        pathlib.Path(folder, "mark.sql").write_text("\ufeffCREATE COLLECTION docs (dim 2);\n")
        unreadable = os.open(folder, os.O_RDONLY)
        done = subprocess.run([shell], stdin=unreadable, capture_output=True, text=True,
                              timeout=60, check=False)
        os.close(unreadable)
        for (code, text), expected_code, expected in (
                ((done.returncode, done.stderr), 1, "cannot read standard input: Is a directory"),
                (command("a.qdb", ".read ."), 1, "cannot read .: Is a directory"),
                (command("a.qdb", ".read mark.sql"), 0, ""),
                (command("a.qdb", "  .collections"), 0, "docs"),
                (command("a.qdb", text=" .collections\n"), 0, "docs"),
                (command("a.qdb", text=".ONCE out.txt\n.collections\n"), 0, ""),
                (command("a.qdb", ".tables"), 1, ".collections does that"),
                (command("a.qdb", ".output |cat"), 1, "not to programs"),
                (command("n" * 5000, "SHOW COLLECTIONS"), 1, "Error: "),
                (command("check", "a.qdb", "more"), 2, '"more" is one word too many for check'),
                (command("a.qdb", "check", "a.qdb"), 2, '"a.qdb" is one word too many')):
            if code != expected_code or expected not in text or (not expected and text):
                return f"exit {code}, expected {expected_code} and {expected!r}: {text}\n"
        if pathlib.Path(folder, "out.txt").read_text() != "docs\n":
            return ".ONCE did not write what follows it\n"
        for bail in ("on", "off"):
            with subprocess.Popen([shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) as waiting:
                waiting.stdin.write(f".bail {bail}\n.version\n")
                waiting.stdin.flush()
                waiting.stdout.readline()
                waiting.send_signal(signal.SIGINT)
                waiting.stdin.write("SHOW COLLECTIONS; SHOW COLLECTIONS;\n.version\n")
                _, errors = waiting.communicate(timeout=60)
            if waiting.returncode != 130 or errors.count("interrupted") != 1:
                return f"Ctrl-C with .bail {bail}: exit {waiting.returncode}, {errors}\n"
    return ""


def check_names(shell):
    """Fields called as columns are: no name twice in JSON, exports that are read back,
    and places of errors in the options of search."""
    with tempfile.TemporaryDirectory() as folder:
        def command(*words):
            done = subprocess.run([shell, *words], cwd=folder, capture_output=True, text=True,
                                  timeout=60, check=False)
            return done.stdout + done.stderr

        command("a.qdb", 'CREATE COLLECTION c (dim 1, metric ip, rerank f32) '
                         'FIELDS (document STRING, vector INT, score FLOAT)',
                'INSERT INTO c (vector, "vector", "document", document, "score") '
                "VALUES ([1], 5, 'field', 'text', 0.5)")
        for extension in ("jsonl", "csv"):
            command("export", "a.qdb", "c", f"c.{extension}")
            command("import", "a.qdb", extension, f"c.{extension}", "--create", "--metric", "ip",
                    "--rerank", "f32", "--vector-field", "vector_", "--document-field", "document_")
        found = [command("--mode", "json", "a.qdb", f"SELECT * FROM {name} NEAREST TO [1]")
                 for name in ("c", "jsonl", "csv")]
        pairs = json.loads(found[0], object_pairs_hook=list)[0]
        expected = [["id", 0], ["score", 1], ["distance", -1], ["document", "field"],
                    ["vector", 5], ["score_2", 0.5], ["document_2", "text"]]
        if [list(pair) for pair in pairs] != expected or found.count(found[0]) != 3:
            return f"columns of one name: {found}\n"
        for words, expected in (
                (("--filter", "vector = 5 AND >> 3"), "vector = 5 AND >> 3\n" + " " * 17 + "^"),
                (("--filter", "vektor = 5"), 'did you mean "vector"?\n  vektor = 5\n  ^'),
                (("--vector", "[1, x]"), "  [1, x]\n      ^"),
                (("--row", "1"), "--row requires --queries"),
                (("--id", ""), 'id "" is not an integer')):
            where = () if words[0] in ("--vector", "--id") else ("--id", "0")
            text = command("search", "a.qdb", "c", *where, *words)
            if expected not in text:
                return f"search {words}: {text}\n"
        text = command("a.qdb", "INSERT INTO c (vector, id, ID) VALUES ([1], 2, 3)")
        return "" if "is named twice" in text else f"INSERT: {text}\n"


def check_bash_completion(shell):
    """Files whose names have blanks are one word each."""
    script = pathlib.Path(__file__).parents[2] / "cli/share/quashdb.bash"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("my rows.npy", "mine.npy"):
            pathlib.Path(folder, name).touch()
        done = subprocess.run(
            ["bash", "-c", f"source '{script}'; COMP_WORDS=(quashdb import a.qdb docs m); "
             "COMP_CWORD=4; _quashdb; printf '%s\\n' \"${COMPREPLY[@]}\""],
            cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        offered = sorted(done.stdout.splitlines())
        return "" if offered == ["mine.npy", "my rows.npy"] else f"bash offers {offered}\n"


def check_partitions(shell):
    """A collection of enough rows is partitioned, and the options of lists reach it."""
    with tempfile.TemporaryDirectory() as folder:
        random = numbers.Random(1)
        rows = pathlib.Path(folder, "rows.jsonl")
        rows.write_text("".join(
            json.dumps({"id": n, "vector": [random.gauss(0, 1) for _ in range(16)]}) + "\n"
            for n in range(3000)))

        def command(*words):
            done = subprocess.run([shell, *words], cwd=folder, capture_output=True, text=True,
                                  timeout=120, check=False)
            if done.returncode != 0:
                raise ValueError(f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
            return done.stdout

        try:
            command("import", "p.qdb", "rows", "--create", "rows.jsonl", "--partition-rows", "1000")
            command("compact", "p.qdb")
            stats = json.loads(command("--mode", "json", "stats", "p.qdb", "rows"))
            explain = {
                flags: json.loads(command("--mode", "json", "search", "p.qdb", "rows", "--id", "7",
                                          "--explain", *flags))
                for flags in ((), ("--recall", "0.5"), ("--recall", "1"), ("--nprobe", "2"))}
            first = command("--mode", "csv", "search", "p.qdb", "rows", "--id", "7", "--k", "1",
                            "--nprobe", "1")
            statement = json.loads(command(
                "--mode", "json", "p.qdb",
                "EXPLAIN SELECT id FROM rows NEAREST TO ID 7 WITH (recall => 0.5)"))
            measured = command("--mode", "json", "measure", "p.qdb", "rows", "--target", "0.9")
        except ValueError as error:
            return str(error)
        half = explain["--recall", "0.5"]
        for holds, what in (
                (stats["lists"] > 1 and stats["indexed_rows"] == 3000, f"statistics {stats}"),
                (half["mode"] == "partitions" and half["recall_target"] == 0.5, f"explain {half}"),
                (explain["--nprobe", "2"]["nprobe"] == 2, f"explain {explain}"),
                (explain["--recall", "1"]["mode"] == "staged", f"explain {explain}"),
                (statement["nprobe"] == half["nprobe"], f"explain {statement}"),
                (first.split()[1].startswith("7,"), f"search {first}"),
                ("nprobe" in measured, f"measure {measured}")):
            if not holds:
                return f"not as expected: {what}\n"
        return ""


def main():
    shell = os.path.abspath(sys.argv[1])
    scripts = sorted(pathlib.Path(sys.argv[2]).glob("*.sql"))
    update = "--update" in sys.argv[3:]
    failed = []
    for script in scripts:
        actual = run(shell, script)
        expected_file = script.with_suffix(".expected")
        if update:
            expected_file.write_text(actual)
            continue
        expected = expected_file.read_text() if expected_file.exists() else ""
        if actual != expected:
            failed.append(script.name)
            sys.stdout.writelines(difflib.unified_diff(
                expected.splitlines(True), actual.splitlines(True),
                expected_file.name, "actual"))
    for name, check in (("subcommands", check_subcommands), ("--safe", check_safe),
                        ("mistyped", check_mistyped), ("input", check_input),
                        ("names", check_names), ("bash", check_bash_completion),
                        ("partitions", check_partitions)):
        if complaint := check(shell):
            failed.append(name)
            sys.stdout.write(complaint)
    print(f"{len(scripts)} scripts and the subcommands, {len(failed)} failed {' '.join(failed)}")
    return 1 if failed or not scripts else 0


if __name__ == "__main__":
    sys.exit(main())

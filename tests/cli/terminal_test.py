"""The shell at a terminal: prompt, history, Tab, Ctrl-C, pager, narrow screens.

    terminal_test.py QUASHDB

Runs it under a pseudo-terminal, types, and looks at what a user would see.
"""

import array
import fcntl
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")
WAIT_S = 60


class Terminal:
    """A shell at a screen of so many rows and columns."""

    def __init__(self, arguments, folder, rows=40, columns=160, **environment):
        self.output = ""
        self.folder = folder
        self._seen = 0
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.chdir(folder)
            own = {"HOME": folder, "TERM": "xterm", "LC_ALL": "C.UTF-8", "QUASHDB_PAGER": ""}
            os.execve(arguments[0], arguments, {**os.environ, **own, **environment})

    def __enter__(self):
        self.expect("quashdb> ")
        return self

    def __exit__(self, *_):
        os.close(self._fd)
        os.waitpid(self._pid, 0)

    def _read(self, seconds):
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the shell has ended
            return False
        self.output += data.decode(errors="replace")
        return bool(data)

    def expect(self, text):
        """Waits until the text appears behind what was waited for before; returns
        what came up to it, without escape sequences."""
        deadline = time.monotonic() + WAIT_S
        while True:
            plain = ESCAPE.sub("", self.output).replace("\r\n", "\n")
            at = plain.find(text, self._seen)
            if at >= 0:
                seen = plain[self._seen:at + len(text)]
                self._seen = at + len(text)
                return seen
            if not self._read(1) and time.monotonic() > deadline:
                raise AssertionError(f"no {text!r} in {plain[self._seen:]!r}")

    def type(self, text):
        os.write(self._fd, text.encode())

    def ask(self, line):
        """Types a line and returns what the shell prints before the next prompt."""
        self.type(line + "\r")
        self.expect("\n")
        return self.expect("quashdb> ").removesuffix("quashdb> ")

    def exit_code(self):
        """Waits for the end."""
        while self._read(WAIT_S):
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = os.spawnlp(os.P_NOWAIT, "true", "true")  # for __exit__
        return code


def test_prompt(start):
    with start() as t:
        assert "Enter .help" in ESCAPE.sub("", t.output)
        assert ".mode" in t.ask("help"), "help works without its dot"
        t.ask("CREATE COLLECTION notes (dim 2, id string) FIELDS (lang STRING, year INT);")
        assert "1 row written" in t.ask("INSERT INTO notes VALUES ('a', [1,0], 'en', 2020);")
        assert "stored already" in t.ask("INSERT INTO notes VALUES ('a', [1,0], 'en', 2020);")
        shown = t.ask("SELECT id FROM notes WHERE lan = 'en';")
        assert 'did you mean "lang"?\n  SELECT id FROM notes WHERE lan = ' in shown, shown
        assert shown.splitlines()[-1] == " " * 29 + "^", shown
        assert "INSERT OR REPLACE" in t.ask("UPDATE notes SET year = 1;")
        assert "notes" in t.ask("  .collections")
        assert "begin with a dot" in t.ask("\\d")
        # A dot-command inside a statement is refused, the statement goes on.
        t.type("SELECT id\r")
        t.expect("...> ")
        t.type(".help\r")
        t.expect("Still inside the statement")
        t.expect("...> ")
        assert "a\n" in t.ask("FROM notes;")
        # The history gives the statement back as a whole.
        t.type("\x10")
        t.expect("FROM notes;")
        t.type("\r")
        assert "a\n" in t.expect("quashdb> ")
        t.type("SELECT \x03")
        t.expect("^C")
        t.expect("quashdb> ")
        t.type("quit\r")
        assert t.exit_code() == 0


def test_interrupts(start):
    # Right behind the prompt, when the shell may not have begun to read: none is
    # lost, and no prompt.
    with start() as t:
        for _ in range(300):
            t.type("SELECT \x03")
            t.expect("^C")
            t.expect("quashdb> ")
        # What was typed before it is gone.
        assert ".mode" in t.ask("help")


def test_echo(start):
    # What is typed right behind the prompt is shown once, by the editor.
    with start() as t:
        for _ in range(300):
            shown = t.ask(".mode table")
            assert shown == "", shown


def test_tab(start):
    with start() as t:
        t.type("sel\t1;\r")
        t.expect("  select 1\n")  # the error's excerpt
        t.expect("quashdb> ")
        t.type(".mo\t\t")
        t.expect("json")
        t.expect("markdown")
        t.expect(".mode ")


def test_narrow(start):
    with start(rows=40, columns=40) as t:
        t.ask("CREATE COLLECTION w (dim 2, id string) FIELDS (a STRING, b STRING, n INT);")
        t.ask("INSERT INTO w VALUES ('❤️日', [1,0], 'x y', '" + "long " * 20 + "', 123456789, 'd');")
        shown = t.ask("SELECT * FROM w;").rstrip("\n").split("\n")
        assert "123456789" in shown[-1] and "…" in shown[-1], shown
        assert all(len(line) <= 40 for line in shown[-3:-1]), shown
        # However wide the heart was drawn, the next column is where it should be.
        assert "❤️日  \x1b[7Gx y" in t.output, t.output[-400:]
        t.ask("ALTER COLLECTION w ADD FIELD c INT;")
        for n in range(4):
            t.ask(f"ALTER COLLECTION w ADD FIELD long_name_{n} INT;")
        assert "not shown: " in t.ask("SELECT * FROM w;")
        # Neither errors nor progress take more than the line they are on.
        shown = t.ask("SELECT id, a, b, n FROM w NEAREST TO [1, 0] WHERE langg = 'en';")
        assert all(len(line) <= 40 for line in shown.splitlines()), shown
        # Long enough for a bar, which the first tenth of a second does without.
        queries = array.array("f", [1.0, 0.0] * 1_000_000)
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 2), }"
        with open(os.path.join(t.folder, "q.npy"), "wb") as file:
            file.write(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117).encode() + b"\n")
            queries.tofile(file)
        shown = t.ask(".bench w --queries q.npy -n 1000000")
        drawn = [line for line in re.split("[\r\n]", shown) if "benchmarking" in line]
        assert drawn and all(len(line) < 40 for line in drawn), drawn
        assert not any("recall" in line for line in drawn), "the bar is gone before the results"


def test_stored_escapes(start):
    # Stored text sends nothing to the terminal, with colours or without.
    for environment in ({}, {"NO_COLOR": "1"}):
        with start("e.qdb", **environment) as t:
            t.ask("CREATE COLLECTION IF NOT EXISTS e (dim 1, id string);")
            with open(os.path.join(t.folder, "e.sql"), "w", encoding="utf-8") as file:
                file.write("INSERT OR REPLACE INTO e VALUES ('x', [1], 'a\x1b[31mred');\n")
            t.ask(".read e.sql")
            for mode in ("table", "line", "list", "markdown"):
                t.ask(f".mode {mode}")
                assert "[31mred" in t.ask("SELECT * FROM e;"), t.output
            assert "\x1b[31m" not in t.output, t.output[-400:]


def test_pager(start):
    # A pager that tells when it starts and shows two lines.
    with start(rows=12, QUASHDB_PAGER="head -n 2") as t:
        t.ask("CREATE COLLECTION p (dim 1);")
        t.ask("INSERT INTO p (vector) VALUES " + ", ".join(["([1])"] * 100) + ";")
        shown = t.ask("SELECT id FROM p;")
        assert shown.strip().splitlines()[-2:] == ["id", "--"], shown
        assert t.ask("SELECT id FROM p LIMIT 5;").strip().splitlines()[-1].strip() == "4"
        # A script is shown as one, and runs to its end when the pager has been left.
        with open(os.path.join(t.folder, "p.sql"), "w", encoding="utf-8") as file:
            file.write("SELECT id FROM p;\nSELECT id FROM p;\nDELETE FROM p WHERE id = 99;\n")
        assert t.ask(".read p.sql").strip().splitlines()[-2:] == ["id", "--"], t.output[-400:]
        assert t.ask("SELECT COUNT(*) FROM p;").strip().splitlines()[-1].strip() == "99"
        t.ask(".pager off")
        assert len(t.ask("SELECT id FROM p;").splitlines()) > 100
        assert "Error" in t.ask("SELECT nothing FROM p;")
        t.ask(".pager no-such-program")
        assert len(t.ask("SELECT id FROM p;").splitlines()) > 100


def test_safe(start):
    with start("--safe", QUASHDB_PAGER="head -n 2") as t:
        assert "not allowed with --safe" in t.ask(".pager less")
        assert "pager: off" in t.ask(".show")
        assert "not allowed with --safe" in t.ask(".read x.sql")


def main():
    shell = os.path.abspath(sys.argv[1])
    tests = [test for name, test in globals().items() if name.startswith("test_")]
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            test(lambda *arguments, folder=folder, **options: Terminal(
                [shell, *arguments], folder, **options))
        print(test.__name__, "ok", flush=True)


if __name__ == "__main__":
    main()

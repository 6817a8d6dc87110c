"""Runs each NAME.sql through the built shell in a fresh folder and compares
what it prints with NAME.expected.

    run_scripts.py QUASHDB FOLDER [--update]

Standard output comes first in an expected file, then standard error after a
line "-- stderr", then "-- exit N". --update writes the files anew.
"""

import difflib
import os
import pathlib
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
    print(f"{len(scripts)} scripts, {len(failed)} failed {' '.join(failed)}")
    return 1 if failed or not scripts else 0


if __name__ == "__main__":
    sys.exit(main())

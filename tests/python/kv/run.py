"""Runs the tests of quashdb.kv with an interpreter that has torch and transformers.

    python3 run.py INTERPRETER VENV [pytest arguments]

INTERPRETER itself if it has them; else a virtual environment at VENV, made once,
into which pip installs them. Exits with 77, a skip, where pip cannot.
"""

import pathlib
import subprocess
import sys

PACKAGES = ("torch==2.13.0", "transformers>=5,<6", "numpy", "pytest", "hypothesis")
PROBE = "import torch, transformers, numpy, pytest, hypothesis"


def has_packages(python):
    return subprocess.run([python, "-c", PROBE], capture_output=True, check=False).returncode == 0


def find_python(python, venv):
    if has_packages(python):
        return python
    own = venv / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    if not has_packages(own):
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        *PACKAGES], check=True)
    return own


def main():
    folder = pathlib.Path(__file__).parent
    try:
        python = find_python(sys.argv[1], pathlib.Path(sys.argv[2]))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: no interpreter with torch and transformers: {error}")
        return 77
    return subprocess.run([python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", folder,
                           *sys.argv[3:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

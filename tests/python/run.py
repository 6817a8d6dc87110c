"""Runs one folder of tests with an interpreter that has the packages they need.

    python3 run.py FOLDER INTERPRETER VENV [pytest arguments]

FOLDER: kv or integrations. INTERPRETER itself if it has the packages; else a
virtual environment at VENV, made once, into which pip installs them. Exits with
77, a skip, where pip cannot.
"""

import pathlib
import subprocess
import sys

PACKAGES = {
    "kv": {"torch": "torch==2.13.0", "transformers": "transformers>=5,<6"},
    "integrations": {
        "faiss": "faiss-cpu",
        "haystack": "haystack-ai>=3,<4",
        "langchain_core": "langchain-core>=1,<2",
        "langchain_tests": "langchain-tests>=1,<2",
        "llama_index.core": "llama-index-core>=0.14,<0.15",
        "matplotlib": "matplotlib",
        "pandas": "pandas",
        "psutil": "psutil",
        "pyarrow": "pyarrow",
        "pytest_asyncio": "pytest-asyncio",
        "ray": "ray",
        "ray.data": "ray[data]",
        "sqlite_vec": "sqlite-vec",
    },
}
ALWAYS = {"numpy": "numpy", "pytest": "pytest", "hypothesis": "hypothesis"}
ARGUMENTS = {
    "kv": [],
    "integrations": ["-o", "asyncio_mode=auto",
                     "-o", "asyncio_default_fixture_loop_scope=function"],
}


def has_modules(python, modules):
    return subprocess.run([python, "-c", "import " + ", ".join(modules)], capture_output=True,
                          check=False).returncode == 0


def find_python(python, venv, packages):
    if has_modules(python, packages):
        return python
    own = venv / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    if not has_modules(own, packages):
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        *packages.values()], check=True)
    return own


def main():
    name = sys.argv[1]
    folder = pathlib.Path(__file__).parent / name
    try:
        python = find_python(sys.argv[2], pathlib.Path(sys.argv[3]), {**PACKAGES[name], **ALWAYS})
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: no interpreter with {', '.join(PACKAGES[name])}: {error}")
        return 77
    return subprocess.run([python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider",
                           *ARGUMENTS[name], folder, *sys.argv[4:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

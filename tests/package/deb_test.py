"""Makes the Debian package of a build and uses what is in it.

    deb_test.py BUILD_FOLDER VERSION WORK_FOLDER

Unpacks it without installing: the shell must find the library beside it, and
every dependency that dpkg-shlibdeps found must be a package of this machine.
Exits with 77 (skipped) where the tools are missing.
"""

import pathlib
import re
import shutil
import subprocess
import sys


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def main():
    build, version, work = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    missing = [tool for tool in ("dpkg-deb", "dpkg-shlibdeps", "file") if not shutil.which(tool)]
    if missing:
        print("skipped: no", ", ".join(missing))
        return 77
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    run("cpack", "--config", build / "CPackConfig.cmake", "-B", work / "packages")
    (package,) = (work / "packages").glob("*.deb")
    assert re.fullmatch(rf"quashdb_{re.escape(version)}(-\d+)?_\w+\.deb", package.name), package.name

    names = {line.split()[-1] for line in run("dpkg-deb", "--contents", package).splitlines()}
    for name in ("bin/quashdb", "include/quashdb.h", "include/quash_kv.h", "include/quashdb.hpp",
                 "lib/libquashdb.so", "lib/libquashkv.so", "lib/pkgconfig/quashdb.pc",
                 "lib/cmake/quashdb/quashdbConfig.cmake", "share/man/man1/quashdb.1",
                 "share/bash-completion/completions/quashdb",
                 "share/zsh/site-functions/_quashdb", "share/fish/vendor_completions.d/quashdb.fish"):
        assert any(found.startswith(f"./usr/{name}") for found in names), (name, sorted(names))
    fields = run("dpkg-deb", "--show", "--showformat", "${Depends}", package)
    needed = [re.match(r"[\w.+-]+", entry.strip()).group() for entry in fields.split(",")]
    assert any(name.startswith("librocksdb") for name in needed), fields
    for name in needed:
        status = run("dpkg-query", "--show", "--showformat", "${Status}", name)
        assert status == "install ok installed", (name, status)
    control = run("dpkg-deb", "--info", package)
    assert "shlibs" in control and "ldconfig" in run("dpkg-deb", "--ctrl-tarfile", package,
                                                     errors="replace"), control

    run("dpkg-deb", "--extract", package, work / "root")
    shell = work / "root" / "usr" / "bin" / "quashdb"
    lines = run(shell, work / "try.qdb", "CREATE COLLECTION a (dim 2); "
                "INSERT INTO a (vector) VALUES ([1, 0]), ([0, 1]);"
                "SELECT id FROM a NEAREST TO [1, 2] LIMIT 1;").split()
    assert lines == ["id", "--", "1"], lines
    libraries = run("ldd", shell)
    assert str(work / "root" / "usr" / "lib") in libraries.replace("bin/../", ""), libraries
    print(package.name, f"{package.stat().st_size / 1e6:.1f} MB;", fields)
    return 0


if __name__ == "__main__":
    sys.exit(main())

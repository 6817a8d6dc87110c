"""What importing the package brings in."""

import os
import subprocess
import sys

import pytest

import quashdb

pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)


def run(code):
    path = repr(quashdb.__path__[0] + "/..")
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path}); {code}"], check=True
    )


def test_the_database_does_without_torch():
    run("import quashdb; assert 'torch' not in sys.modules")


def test_without_torch_the_error_says_what_to_install():
    run(
        "sys.modules['torch'] = None\n"
        "try:\n    import quashdb.kv\n"
        "except ImportError as error:\n    assert 'quashdb[kv]' in str(error)\n"
        "else:\n    sys.exit(1)"
    )


def test_transformers_is_imported_by_the_cache_alone():
    run("import quashdb.kv; assert 'transformers' not in sys.modules")


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_the_kv_cache_does_without_the_database():
    maps = "open('/proc/self/maps').read()"
    run(
        f"import quashdb.kv; m = {maps}\n"
        "assert 'libquashkv' in m and 'libquashdb' not in m and 'rocksdb' not in m\n"
        f"import quashdb; assert quashdb.__version__; assert 'libquashdb' in {maps}"
    )


def test_all_names_are_there():
    pytest.importorskip("transformers")
    import quashdb.kv as kv

    for name in kv.__all__:
        assert getattr(kv, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        kv.nothing  # noqa: B018

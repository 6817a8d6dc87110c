"""bindings/python/examples/kv_generation.py, as it is run."""

import pathlib
import re
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "bindings" / "python" / "examples"))

import kv_generation  # noqa: E402


def test_a_random_llama(capsys):
    kv_generation.main(["--context", "512", "--tokens", "8"])
    out = capsys.readouterr().out
    assert "512 tokens of prompt, 8 generated" in out
    exact, packed = re.search(r"cache: ([\d,]+) bytes uncompressed, ([\d,]+) at 4 bits", out).groups()
    # float32 keys and values, 4 layers, 2 heads of 64; the last token is not stored.
    assert int(exact.replace(",", "")) == 519 * 2 * 4 * 2 * 64 * 4
    assert int(packed.replace(",", "")) < 0.4 * int(exact.replace(",", ""))
    assert int(re.search(r"the first (\d+) tokens are the same", out)[1]) >= 1


def test_no_model_there(tmp_path):
    with pytest.raises(SystemExit, match="Error: no model in"):
        kv_generation.main(["--model", str(tmp_path)])

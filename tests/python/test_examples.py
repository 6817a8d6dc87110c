"""bindings/python/examples, as they are run; that of quashdb.kv is in kv/test_kv_example.py."""

import io
import pathlib
import re
import sys

import numpy as np
import pytest

import quashdb

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bindings" / "python" / "examples"))

import chat_memory  # noqa: E402
import hybrid_search  # noqa: E402
import sample  # noqa: E402
import semantic_search  # noqa: E402


@pytest.fixture(scope="module")
def packages():
    with quashdb.open() as db:
        yield sample.open_packages(db)


def test_semantic_search(capsys, tmp_path):
    path = str(tmp_path / "packages.qdb")
    semantic_search.main(["--database", path])
    out = capsys.readouterr().out
    assert float(re.search(r"recall@10 of 100 queries: ([\d.]+)", out)[1]) >= 0.98
    assert "libcrypt-openssl-random-perl" in out and "libcrypt-openssl-dsa-perl" in out
    semantic_search.main(["--database", path, "--like", "pssh", "--k", "3"])  # kept there
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "like pssh" and "1.000  pssh" in lines[1] and "openssh-parallel" in lines[2]
    with pytest.raises(SystemExit, match="Error: .*nothing-of-this-name"):
        semantic_search.main(["--database", path, "--like", "nothing-of-this-name"])


def test_hybrid_search(packages, capsys):
    vector = packages.get(["pssh"], include="vectors")[0].vector
    where = "section IN ('net', 'admin') AND size_kb < 1000"
    plain = hybrid_search.hybrid(packages, vector, where, k=20)
    assert [hit.id for _, hit in plain] == packages.query(vector, 20, where)[0].ids
    fused = hybrid_search.hybrid(packages, vector, where, ["server", "it's"], k=20)
    assert all(
        hit.metadata["section"] in ("net", "admin") and hit.metadata["size_kb"] < 1000
        for _, hit in fused
    )
    assert [score for score, _ in fused] == sorted((score for score, _ in fused), reverse=True)

    def with_word(found):
        return [hit.id for _, hit in found if "server" in hit.metadata["synopsis"].lower()]

    assert len(with_word(fused)) > len(with_word(plain))  # the word raised some
    assert len(hybrid_search.hybrid(packages, vector, "size_kb < 0", ["parallel"])) == 0

    hybrid_search.main(["--like", "pssh", "--where", where, "--words", "server"])
    out = capsys.readouterr().out
    assert f"{packages.count(where):,} of 5,000 rows match" in out and len(out.splitlines()) == 11
    with pytest.raises(SystemExit, match="Error: filter"):
        hybrid_search.main(["--where", "size_kb <"])


def test_chat_memory(capsys, tmp_path):
    chat_memory.main([])
    shown, flight = capsys.readouterr().out.split("> When")
    assert "allergic to peanuts" in shown and "flight leaves at nine" in flight
    assert "tomatoes" not in shown and "peanuts" not in flight

    embed = sample.HashingEmbedder()
    with quashdb.open(tmp_path / "chat.qdb") as db:
        memory = chat_memory.ChatMemory(db, embed)
        assert memory.context("ann", "hello") == [] and memory.forget("ann") == 0
        for role, text in chat_memory.SCRIPT:
            memory.add("ann", role, text)
        memory.add("bob", "user", "My cat is allergic to peanuts as well.")
    with quashdb.open(tmp_path / "chat.qdb") as db:  # of another process, later
        memory = chat_memory.ChatMemory(db, embed)
        (first, *_) = memory.recall("ann", "peanuts allergic?", k=1)
        assert first == (0, "user", "My daughter Mila is allergic to peanuts.")  # not Bob's
        assert [turn for turn, _, _ in memory.recent("ann", 3)] == [5, 6, 7]
        turns = [turn for turn, _, _ in memory.context("ann", "peanuts", n=2)]
        assert turns == sorted(set(turns)) and turns[-2:] == [6, 7] and 0 in turns
        assert memory.add("ann", "user", "bye") == 8 and memory.count("bob") == 1
        assert memory.forget("ann") == 9 and memory.count("ann") == 0 and memory.count("bob") == 1
        with pytest.raises(quashdb.InvalidError, match="vectors of 64 numbers, expected 256"):
            chat_memory.ChatMemory(db, sample.HashingEmbedder(64)).add("ann", "user", "hello")


def test_chat_memory_reads_lines(capsys, tmp_path, monkeypatch):
    lines = "I like tea with milk.\n\nThe train was late.\nIt rained.\nMilk or lemon in my tea?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    chat_memory.main(["--database", str(tmp_path / "chat.qdb"), "--session", "ann"])
    last = capsys.readouterr().out.split("> Milk")[1]
    assert "I like tea with milk." in last


def test_hashing_embedder():
    embed = sample.HashingEmbedder(128)
    vectors = embed(["a network server", "servers of networks", "apple pie", "", "the"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors[0] @ vectors[1] > 0.2 > abs(vectors[0] @ vectors[2])
    np.testing.assert_array_equal(vectors, sample.HashingEmbedder(128)(
        ["a network server", "servers of networks", "apple pie", "", "the"]))  # fmt: skip

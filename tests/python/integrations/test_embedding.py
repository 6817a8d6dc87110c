import numpy as np
import pytest

import quashdb
from quashdb.embedding import TextCollection, embed_texts


def test_texts_in_and_out(embed, tmp_path):
    calls = []

    def counting(texts):
        calls.append(len(texts))
        return embed(texts).tolist()

    with quashdb.open(tmp_path / "a.qdb") as db:
        notes = TextCollection(db, "notes", counting, rerank="f32", fields={"year": int})
        assert len(notes) == 0 and notes.collection is None and not calls  # on demand
        with pytest.raises(quashdb.NotFoundError, match="nothing has been written"):
            notes.query("text 1")
        years = [{"year": 2000 + i} for i in range(10)]
        notes.add([f"n{i}" for i in range(10)], [f"text {i}" for i in range(10)], years)
        hit = notes.query("text 4", k=1)[0]
        assert (hit.id, hit.document, hit.metadata) == ("n4", "text 4", {"year": 2004})
        assert notes.query("text 4", where="year > 2007").ids == sorted(
            notes.query("text 4", where="year > 2007").ids,
            key=lambda id: -embed([f"text {id[1]}"])[0] @ embed(["text 4"])[0],
        )
        notes.upsert(["n4", "n10"], ["other", "text 10"])
        assert notes.get("n4") == ("other", {}) and len(notes) == 11
        found = notes.query_all(["other", "text 10"], k=1)
        assert [ids[0] for ids in found.ids] == ["n4", "n10"]
        with pytest.raises(quashdb.ExistsError):
            notes.add(["n4"], ["x"])
        notes.add([], [])
    with quashdb.open(tmp_path / "a.qdb") as db:
        again = TextCollection(db, "notes", counting, embed_query=lambda _: embed(["text 3"]))
        assert again.query("whatever", k=1).ids == ["n3"]


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (
            lambda texts: np.zeros((len(texts), 7)),
            "vectors of 7 numbers, expected 16 as the stored",
        ),
        (lambda texts: np.zeros((1, 16)), r"shape \(1, 16\) for 2 texts, expected \(2, 16\)"),
        (lambda texts: np.zeros(16), r"shape \(16,\)"),
        (lambda texts: [[1.0], [1.0, 2.0]], "of one length"),
        (lambda texts: None, r"shape \(\)"),
        (lambda texts: np.full((len(texts), 16), np.nan), "NaN"),
    ],
)
def test_a_wrong_function(embed, function, match):
    with quashdb.open() as db:
        TextCollection(db, "notes", embed).add(["a", "b"], ["x", "y"])
        notes = TextCollection(db, "notes", function)
        for call in (
            lambda: notes.upsert(["a", "c"], ["z", "z"]),
            lambda: notes.query_all(["z", "z"]),
        ):
            with pytest.raises(quashdb.InvalidError, match=match):
                call()
        assert len(notes) == 2 and notes.get("a")[0] == "x"


def test_bad_input(embed):
    with pytest.raises(quashdb.InvalidError, match="texts hold a int"):
        embed_texts(embed, [1])
    with quashdb.open() as db:
        notes = TextCollection(db, "notes", embed)
        with pytest.raises(quashdb.InvalidError, match="one text"):
            notes.add(["a"], "text")
        with pytest.raises(quashdb.InvalidError, match="2 entries, ids has 1"):
            notes.add(["a"], ["x", "y"])

        def failing(texts):
            raise RuntimeError("no model")

        with pytest.raises(RuntimeError, match="no model"):
            TextCollection(db, "notes", failing).add(["a"], ["x"])
        assert "notes" not in db

import numpy as np
import pytest

import quashdb
from quashdb.integrations import chroma


@pytest.fixture
def client():
    client = chroma.Client()
    yield client
    client.close()


@pytest.fixture
def notes(client, embed):
    notes = client.create_collection("notes", metadata={"hnsw:space": "cosine"}, embedding_function=embed)
    notes.add(
        ids=[f"n{i}" for i in range(20)],
        documents=[f"note {i}" for i in range(20)],
        metadatas=[{"n": i, "even": i % 2 == 0} if i else None for i in range(20)],
    )
    return notes


def test_query_by_text(notes):
    found = notes.query(query_texts=["note 7", "note 3"], n_results=3)
    assert [ids[0] for ids in found["ids"]] == ["n7", "n3"]
    assert found["documents"][0][0] == "note 7" and found["metadatas"][1][0]["n"] == 3
    assert found["distances"][0][0] == pytest.approx(0, abs=1e-4)
    assert found["distances"][0] == sorted(found["distances"][0])
    assert found["embeddings"] is None
    found = notes.query(query_texts="note 7", include=["embeddings"])
    assert found["embeddings"][0].shape == (10, 16) and found["documents"] is None


def test_where(notes):
    def get(**conditions):
        return sorted(int(one[1:]) for one in notes.get(**conditions)["ids"])

    assert get(where={"n": {"$gte": 18}}) == [18, 19]
    assert get(where={"$and": [{"even": True}, {"n": {"$lt": 5}}]}) == [2, 4]
    assert get(where={"$or": [{"n": 1}, {"n": 2}]}) == [1, 2]
    assert get(where={"n": {"$ne": 5}}) == [i for i in range(20) if i != 5]
    assert get(where={"n": {"$nin": list(range(1, 19))}}) == [0, 19]
    assert get(where={"n": "5"}) == [] and get(where={"n": {"$ne": "5"}}) == list(range(20))
    assert get(where={"n": {"$in": [5, "6"]}}) == [5]
    assert get(where_document={"$contains": "note 1"}) == [1, *range(10, 20)]
    assert get(where_document={"$not_contains": "1"}, where={"even": True}) == [2, 4, 6, 8]
    assert get(ids=["n3", "n4", "zz"], where={"even": True}) == [4]
    assert get(limit=3, offset=2) == [2, 3, 4]
    found = notes.query(query_texts="note 7", where_document={"$regex": "^note [34]$"})
    assert sorted(found["ids"][0]) == ["n3", "n4"]


def test_add_leaves_what_is_stored_and_upsert_replaces(notes):
    notes.add(ids=["n1", "new"], documents=["other", "new"])
    assert notes.get(ids="n1")["documents"] == ["note 1"] and notes.count() == 21
    notes.upsert(ids=["n1", "n2", "newer"], documents=["other", None, "x"], embeddings=np.eye(3, 16),
                 metadatas=[{"n": 100}, None, {"n": 7}])  # fmt: skip
    found = notes.get(ids=["n1", "n2", "newer"])
    assert dict(zip(found["ids"], found["documents"], strict=True)) == {
        "n1": "other", "n2": "note 2", "newer": "x"}  # fmt: skip
    assert dict(zip(found["ids"], found["metadatas"], strict=True)) == {
        "n1": {"n": 100, "even": False}, "n2": {"n": 2, "even": True}, "newer": {"n": 7}}  # fmt: skip


def test_update_merges(notes):
    notes.update(ids=["n4", "absent"], metadatas=[{"extra": "x", "even": None}, {}])
    row = notes.get(ids="n4", include=["metadatas", "documents", "embeddings"])
    assert row["metadatas"] == [{"n": 4, "extra": "x"}] and row["documents"] == ["note 4"]
    notes.update(ids="n4", documents="changed")
    assert notes.query(query_texts="changed", n_results=1)["ids"] == [["n4"]]
    assert notes.count() == 20


def test_delete(notes):
    assert notes.delete(ids=["n1", "n2", "absent"]) == {"deleted": 2}
    notes.delete(where={"n": {"$gt": 10}})
    notes.delete(where_document={"$contains": "note 3"})
    assert notes.count() == 8
    with pytest.raises(quashdb.InvalidError, match="delete"):
        notes.delete()


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_distances(client, space):
    c = client.create_collection("c", configuration={"hnsw": {"space": space}})
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    c.add([str(i) for i in range(50)], rows)
    query = rows[3] * 2
    found = c.query(query, n_results=50)
    expected = {
        "l2": ((rows - query) ** 2).sum(1),
        "ip": 1 - rows @ query,
        "cosine": 1 - rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query),
    }[space]
    order = np.argsort(expected)
    assert found["ids"][0][0] == str(order[0])
    np.testing.assert_allclose(found["distances"][0], np.sort(expected), rtol=1e-4, atol=1e-4)


def test_collections(client, embed, tmp_path):
    client.create_collection("a")
    assert client.get_or_create_collection("a").count() == 0
    with pytest.raises(ValueError, match="exists"):
        client.create_collection("a")
    client.create_collection("b", metadata={"topic": "x"})
    assert [one.name for one in client.list_collections()] == ["a", "b"]
    assert client.get_collection("b").metadata == {"topic": "x"}
    b = client.get_collection("b")
    b.add(["1"], [[1.0, 2.0]])
    b.modify(name="c", metadata={"topic": "y"})
    assert client.create_collection("b").count() == 0
    assert client.get_collection("c").count() == 1 and b.metadata == {"topic": "y"}
    with pytest.raises(ValueError, match="exists"):
        b.modify(name="a")
    client.delete_collection("c")
    client.delete_collection("a")
    with pytest.raises(quashdb.NotFoundError):
        client.get_collection("a")
    assert client.count_collections() == 1 and client.reset() and client.count_collections() == 0

    kept = chroma.PersistentClient(tmp_path / "c.qdb")
    kept.create_collection("notes", embedding_function=embed).add("1", documents="one")
    kept.close()
    kept = chroma.PersistentClient(tmp_path / "c.qdb")
    notes = kept.get_collection("notes", embedding_function=embed)
    assert notes.peek()["documents"] == ["one"]
    kept.close()


def test_a_collection_made_elsewhere(embed):
    with quashdb.open() as db:
        db.create_collection("c", 16, "l2", "string", rerank="f32").add(["a"], embed(["one"]))
        c = chroma.Client(db).get_or_create_collection("c", embedding_function=embed)
        assert c.query(query_texts="one")["distances"] == [[0.0]]


def test_an_embedding_function_that_changes(client, embed):
    def function(texts):
        return embed(texts)[:, :dim]

    dim = 16
    c = client.create_collection("c", embedding_function=function)
    c.add(["a"], documents=["one"])
    dim = 8
    for call in (
        lambda: c.add(["b"], documents=["two"]),
        lambda: c.upsert(["a"], documents=["two"]),
        lambda: c.update(["a"], documents=["two"]),
        lambda: c.query(query_texts="one"),
    ):
        with pytest.raises(quashdb.InvalidError, match="vectors of 8 numbers, expected 16"):
            call()
    assert c.get()["documents"] == ["one"]


OPERATIONS = """
count
get ids=["n1","n0"]
get where={"n":3}
get where={"n":{"$ne":3}}
get where={"n":{"$gte":17}}
get where={"n":{"$lt":2}}
get where={"n":{"$in":[1,2,99]}}
get where={"n":{"$nin":[1,2,99]}}
get where={"n":"3"}
get where={"n":{"$ne":"3"}}
get where={"s":"x1"}
get where={"even":True}
get where={"even":{"$ne":True}}
get where={"$and":[{"n":{"$gt":3}},{"s":"x0"}]}
get where={"$or":[{"n":1},{"s":"x0"}]}
get where={"f":{"$gt":8.5}}
get where={"f":9}
get where={"nope":1}
get where={"nope":{"$ne":1}}
get where={"t":{"$contains":"t1"}}
get where={"t":{"$not_contains":"t1"}}
get where_document={"$contains":"note 1"}
get where_document={"$not_contains":"1"}
get where_document={"$and":[{"$contains":"1"},{"$contains":"9"}]}
get where_document={"$or":[{"$contains":"8"},{"$contains":"9"}]}
get where_document={"$regex":"note [34]$"}
query query_texts=["note 7","note 3"],n_results=3
query query_texts=["note 7"],n_results=3,ids=["n1","n2"]
query query_texts=["note 7"],n_results=5,where={"n":{"$gt":10}}
add ids=["n1","m"],documents=["other","new"],metadatas=[None,{"only":1}]
get ids=["n1","m"]
upsert ids=["n1","z"],documents=["up","z"],metadatas=[{"n":100},{"n":101}]
get ids=["n1","z"]
upsert ids=["n2"],documents=["up2"]
get ids=["n2"]
update ids=["n4","absent"],metadatas=[{"extra":"x","n":44},{"a":1}]
get ids=["n4"]
update ids=["n5"],documents=["changed"]
query query_texts=["changed"],n_results=1
delete ids=["n6","nope"]
delete where={"n":{"$gt":15}}
count
get
""".strip().splitlines()


def test_answers_are_those_of_chroma(client, embed):
    """The same calls of chromadb, where it is installed."""
    chromadb = pytest.importorskip("chromadb")

    class Function(chromadb.EmbeddingFunction):
        def __init__(self):
            pass

        def __call__(self, input):
            return list(embed(input))

    def rows(answer):
        if not isinstance(answer, dict) or "ids" not in answer:
            return answer
        answer = {key: answer.get(key) for key in ("ids", "documents", "metadatas", "distances")}
        if answer["distances"] is not None:
            answer["distances"] = [[round(d, 4) for d in one] for one in answer["distances"]]
            return answer
        columns = [answer[key] for key in ("ids", "documents", "metadatas")]
        return sorted(zip(*columns, strict=True), key=lambda row: row[0])

    theirs = chromadb.EphemeralClient().get_or_create_collection(
        "notes", embedding_function=Function(), metadata={"hnsw:space": "cosine"}
    )
    ours = client.get_or_create_collection(
        "notes", embedding_function=embed, metadata={"hnsw:space": "cosine"}
    )
    metadatas = [
        {"n": i, "even": i % 2 == 0, "f": i / 2, "s": f"x{i % 3}", "t": ["t", f"t{i % 4}"]}
        for i in range(20)
    ]
    for one in (theirs, ours):
        one.add(ids=[f"n{i}" for i in range(20)], documents=[f"note {i}" for i in range(20)],
                metadatas=metadatas)  # fmt: skip
    for line in OPERATIONS:
        name, _, arguments = line.partition(" ")
        arguments = eval(f"dict({arguments})")
        found = [rows(getattr(one, name)(**arguments)) for one in (theirs, ours)]
        # Chroma counts the ids that are given, not those that are there.
        assert found[0] == found[1] or name == "delete", line


def test_bad_input(notes):
    for call, match in [
        (lambda: notes.add(ids=["a", "a"], documents=["x", "y"]), "twice"),
        (lambda: notes.add(ids=["a"], documents=["x", "y"]), "2 entries"),
        (lambda: notes.add(ids=["a"]), "missing"),
        (lambda: notes.add(ids=[], embeddings=[]), "ids is empty"),
        (lambda: notes.add(ids=["a", "b"], embeddings=[[1, 2], [3]]), "embeddings is no array"),
        (lambda: notes.add(ids=["a"], embeddings=["text"]), "embeddings has shape"),
        (lambda: notes.update(ids=["d1"], metadatas=[{}, {}]), "metadatas has 2 entries"),
        (lambda: notes.update(ids=["d1", "d2"], metadatas=[{}]), "metadatas has 1 entries"),
        (lambda: notes.update(ids=["d1"], documents=["x", "y"]), "entries"),
        (lambda: notes.get(offset=-1), "offset is -1"),
        (lambda: notes.query(query_embeddings=[[1.0, 2.0]]), "expected"),
        (lambda: notes.query(), "either"),
        (lambda: notes.get(include=["distances"]), "distances"),
        (lambda: notes.get(where_document={"$like": "x"}), "where_document"),
        (lambda: notes.get(where={"n": {"$around": 3}}), "around"),
    ]:
        with pytest.raises(quashdb.InvalidError, match=match):
            call()
    assert notes.count() == 20

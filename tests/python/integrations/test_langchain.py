import numpy as np
import pytest

pytest.importorskip("langchain_core")
standard = pytest.importorskip("langchain_tests.integration_tests")

from langchain_core.documents import Document  # noqa: E402
from langchain_core.embeddings import DeterministicFakeEmbedding  # noqa: E402

import quashdb  # noqa: E402
from quashdb.integrations.langchain import QuashVectorStore  # noqa: E402


class TestStandard(standard.VectorStoreIntegrationTests):
    """LangChain's own tests of a vector store."""

    @pytest.fixture
    def vectorstore(self):
        store = QuashVectorStore(self.get_embeddings())
        yield store
        store.close()


@pytest.fixture
def store():
    store = QuashVectorStore.from_texts(
        [f"text {i}" for i in range(50)],
        DeterministicFakeEmbedding(size=12),
        [{"year": 2000 + i, "lang": "en" if i % 2 else "de", "id": i, "Tags": ["a", f"t{i % 5}"],
          "nested": {"deep": i}} for i in range(50)],
        ids=[f"d{i}" for i in range(50)],
    )  # fmt: skip
    yield store
    store.close()


def test_metadata_comes_back_as_given(store):
    (document,) = store.get_by_ids(["d7"])
    assert document == Document(
        id="d7",
        page_content="text 7",
        metadata={"year": 2007, "lang": "en", "id": 7, "Tags": ["a", "t2"], "nested": {"deep": 7}},
    )
    assert isinstance(document.metadata["year"], int)


def test_filters(store):
    def years(where):
        return sorted(d.metadata["year"] for d in store.similarity_search("x", k=50, filter=where))

    assert years({"year": {"$gte": 2048}}) == [2048, 2049]
    assert years({"id": 3}) == [2003]
    assert years({"Tags": {"$contains": "t4"}, "lang": "en"}) == [2009, 2019, 2029, 2039, 2049]
    assert years({"absent": 1}) == []
    assert len(years({"absent": None})) == 50
    assert years("lang = 'de' AND year < 2003") == [2000, 2002]


def test_search_finds_the_same_text_first(store):
    (document, score), *_ = store.similarity_search_with_score("text 9", k=3)
    assert document.id == "d9" and score == pytest.approx(1, abs=1e-3)
    (_, relevance), *_ = store.similarity_search_with_relevance_scores("text 9", k=1)
    assert 0.99 < relevance <= 1


def test_mmr_returns_distinct_documents(store):
    found = store.max_marginal_relevance_search("text 9", k=5, fetch_k=20)
    assert found[0].id == "d9" and len({d.id for d in found}) == 5
    found = store.max_marginal_relevance_search("text 9", k=3, filter={"lang": "de"})
    assert all(d.metadata["lang"] == "de" for d in found)


def test_retriever(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"year": 2011}})
    assert [d.id for d in retriever.invoke("anything")] == ["d11"]


def test_stays_on_disk(tmp_path):
    embedding = DeterministicFakeEmbedding(size=12)
    store = QuashVectorStore(embedding, tmp_path / "a.qdb")
    store.add_texts(["one", "two"], [{"n": 1}, {"n": 2.5}], ids=["1", "2"])
    store.close()
    store = QuashVectorStore(embedding, tmp_path / "a.qdb")
    assert [d.metadata for d in store.get_by_ids(["2", "1"])] == [{"n": 2.5}, {"n": 1}]
    assert store.similarity_search("two", k=1, filter={"n": {"$gt": 2}})[0].id == "2"
    with pytest.raises(quashdb.InvalidError, match="expected"):
        QuashVectorStore(DeterministicFakeEmbedding(size=7), store._database).add_texts(["x"])
    store.close()


def test_bad_input(store):
    with pytest.raises(quashdb.InvalidError, match="ids has 1 entries, texts has 2"):
        store.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(quashdb.InvalidError, match="year.*float"):
        store.add_texts(["a"], [{"year": "MMXX"}])
    with pytest.raises(quashdb.InvalidError, match="JSON"):
        store.add_texts(["a"], [{"x": np.float32(1)}])
    with pytest.raises(TypeError, match="filter is a function, expected a dict or SQL text"):
        store.similarity_search("x", filter=lambda document: True)
    with pytest.raises(quashdb.InvalidError, match="delete.. has no filters"):
        store.delete(filters={"year": 2001})
    assert len(store.collection) == 50
    assert store.delete(filter={"year": 2001}) and len(store.collection) == 49


def test_too_many_keys_take_no_fields(store):
    before = store.collection.describe()["fields"]
    keys = {f"key{i}": i for i in range(256)}
    with pytest.raises(quashdb.LimitError, match="256 keys that no row had, 'key0' among them"):
        store.add_texts(["a"], [keys])
    assert store.collection.describe()["fields"] == before and len(store.collection) == 50
    (key,) = store.add_texts(["a"], [{"more": keys}])
    assert store.get_by_ids([key])[0].metadata == {"more": keys}

import numpy as np
import pytest

pytest.importorskip("haystack")

import quashdb  # noqa: E402
from haystack import Document, Pipeline  # noqa: E402
from haystack.dataclasses import ByteStream, SparseEmbedding  # noqa: E402
from haystack.document_stores.errors import DuplicateDocumentError  # noqa: E402
from haystack.document_stores.types import DuplicatePolicy  # noqa: E402
from haystack.errors import FilterError  # noqa: E402
from haystack.testing import document_store as standard  # noqa: E402
from quashdb.integrations.haystack import (  # noqa: E402
    QuashDocumentStore,
    QuashEmbeddingRetriever,
)


class TestStandard(
    standard.DocumentStoreBaseExtendedTests,
    standard.CountDocumentsByFilterTest,
    standard.CountUniqueMetadataByFilterTest,
    standard.GetMetadataFieldsInfoTest,
    standard.GetMetadataFieldMinMaxTest,
    standard.GetMetadataFieldUniqueValuesTest,
):
    """Haystack's own tests of a document store."""

    @pytest.fixture
    def document_store(self):
        store = QuashDocumentStore()
        yield store
        store.close()

    @staticmethod
    def assert_documents_are_equal(received, expected):
        assert [d.id for d in received] == [d.id for d in expected]
        for one, other in zip(received, expected, strict=True):
            given, stored = one.to_dict(), other.to_dict()
            if other.embedding is not None:  # doubles, stored as float32
                np.testing.assert_allclose(given.pop("embedding"), stored.pop("embedding"), 1e-6)
            assert given == stored

    def test_write_documents(self, document_store):
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])

    @staticmethod
    def test_get_metadata_field_unique_values_distinct_types(document_store):
        # Kinds are not mixed here: filters would not see all of them.
        document_store.write_documents([Document(content="1", meta={"priority": 1})])
        with pytest.raises(quashdb.InvalidError, match="priority.*'1'.*float"):
            document_store.write_documents([Document(content="2", meta={"priority": "1"})])
        assert document_store.count_documents() == 1


@pytest.fixture
def documents(embed):
    vectors = embed([f"text {i}" for i in range(20)]) * 3
    return [
        Document(
            id=f"d{i}",
            content=f"text {i}",
            embedding=vectors[i].tolist(),
            meta={"year": 2000 + i, "lang": "en" if i % 2 else "de", "nested": {"deep": i}},
        )
        for i in range(20)
    ]


@pytest.fixture
def store(documents):
    store = QuashDocumentStore(embedding_dim=16)
    store.write_documents([*documents, Document(id="plain", content="no embedding")])
    yield store
    store.close()


def test_retrieval(store, documents):
    found = store.embedding_retrieval(documents[7].embedding, top_k=30, return_embedding=True)
    assert found[0].id == "d7" and found[0].score == pytest.approx(1, abs=1e-4)
    assert found[0].meta == documents[7].meta
    np.testing.assert_allclose(found[0].embedding, documents[7].embedding, rtol=1e-5)
    assert len(found) == 20  # without the one that has no embedding
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    german = {"field": "meta.lang", "operator": "==", "value": "de"}
    found = store.embedding_retrieval(documents[7].embedding, german)
    assert {d.meta["lang"] for d in found} == {"de"} and found[0].embedding is None


def test_every_part_of_a_document_comes_back(store):
    given = Document(
        content=None,
        blob=ByteStream(b"\x00\xff", mime_type="image/png"),
        sparse_embedding=SparseEmbedding([1, 5], [0.5, 0.25]),
        meta={"year": 1999},
    )
    store.write_documents([given])
    assert store.filter_documents({"field": "id", "operator": "==", "value": given.id}) == [given]


def test_filters_know_true_and_false_only(store):
    def count(operator, *conditions):
        filters = {"operator": operator, "conditions": list(conditions)}
        return store.count_documents_by_filter(filters)

    late = {"field": "meta.year", "operator": ">=", "value": 2010}
    english = {"field": "meta.lang", "operator": "==", "value": "en"}
    either = {"operator": "OR", "conditions": [late, english]}
    assert count("AND", late, english) == 5
    assert count("NOT", late) == 11  # with the one that has no year
    assert count("NOT", late, english) == 16
    assert count("NOT", either) == 6
    assert count("NOT", {"operator": "NOT", "conditions": [late]}) == 10
    text = {"field": "meta.year", "operator": "==", "value": "2010"}
    assert count("AND", text) == 0 and count("NOT", text) == 21
    missing = {"field": "meta.absent", "operator": "!=", "value": None}
    assert count("AND", missing) == 0 and count("NOT", missing) == 21
    assert count("AND", {"field": "meta.year", "operator": "in", "value": [2001, None]}) == 2
    assert count("NOT", {"field": "meta.year", "operator": "in", "value": [2001, None]}) == 19


def test_pipeline_and_reopening(store, documents, tmp_path):
    kept = QuashDocumentStore(str(tmp_path / "a.qdb"), embedding_dim=16, metric="l2")
    kept.write_documents(documents)
    pipeline = Pipeline()
    late = {"field": "meta.year", "operator": ">", "value": 2010}
    pipeline.add_component("retriever", QuashEmbeddingRetriever(kept, late, top_k=3))
    text = pipeline.dumps()
    kept.close()
    module = QuashDocumentStore.__module__
    again = Pipeline.loads(text, allowed_modules=[module, "haystack.*"])
    found = again.run({"retriever": {"query_embedding": documents[12].embedding}})
    assert found["retriever"]["documents"][0].id == "d12"
    assert len(found["retriever"]["documents"]) == 3
    again.get_component("retriever").document_store.close()
    with pytest.raises(quashdb.ExistsError, match="with dim 16, asked for 17"):
        QuashDocumentStore(str(tmp_path / "a.qdb"), embedding_dim=17, metric="l2")
    with quashdb.open(tmp_path / "a.qdb") as db:
        over = QuashDocumentStore(db, embedding_dim=16, metric="l2")
        assert over.count_documents() == 20
        with pytest.raises(quashdb.MisuseError, match="path"):
            over.to_dict()


def test_bad_input(store, documents):
    with pytest.raises(quashdb.InvalidError, match="has 3 numbers, expected 16"):
        store.write_documents([Document(content="a"), Document(content="b", embedding=[1.0] * 3)])
    with pytest.raises(quashdb.InvalidError, match=r"expected \[n, 16\]"):
        store.embedding_retrieval([1.0])
    with pytest.raises(DuplicateDocumentError, match="d3"):
        store.write_documents([Document(content="new"), documents[3]], DuplicatePolicy.FAIL)
    for filters, match in [
        ({"field": "content", "operator": "==", "value": "x"}, "content"),
        ({"field": "meta.year", "operator": "~", "value": 1}, "'~'"),
        ({"operator": "XOR", "conditions": [{}]}, "XOR"),
        ({"field": "meta.lang", "operator": ">", "value": 3}, "type string"),
    ]:
        with pytest.raises(FilterError, match=match):
            store.filter_documents(filters)
    assert store.count_documents() == 21

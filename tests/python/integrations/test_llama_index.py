import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode  # noqa: E402
from llama_index.core.vector_stores.types import (  # noqa: E402
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import quashdb  # noqa: E402
from quashdb.integrations.llama_index import QuashVectorStore  # noqa: E402


@pytest.fixture
def nodes(embed):
    vectors = embed([f"text {i}" for i in range(30)])
    return [
        TextNode(
            text=f"text {i}",
            id_=f"n{i}",
            embedding=vectors[i].tolist(),
            metadata={"year": 2000 + i, "lang": "en" if i % 2 else "de", "tags": ["a", f"t{i % 3}"]},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc{i // 10}")},
        )
        for i in range(30)
    ]


@pytest.fixture
def store(nodes):
    store = QuashVectorStore()
    assert store.add(nodes) == [f"n{i}" for i in range(30)]
    yield store
    store.close()


def ask(store, vector, k=5, **options):
    return store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=k, **options))


def test_query(store, nodes):
    found = ask(store, nodes[4].embedding)
    assert found.ids[0] == "n4" and found.similarities[0] == pytest.approx(1, abs=1e-3)
    assert found.nodes[0].metadata == nodes[4].metadata and found.nodes[0].text == "text 4"
    assert found.nodes[0].ref_doc_id == "doc0"
    assert found.similarities == sorted(found.similarities, reverse=True)
    assert ask(store, nodes[4].embedding, node_ids=["n1", "n2"]).ids in (["n1", "n2"], ["n2", "n1"])
    assert set(ask(store, nodes[4].embedding, 30, doc_ids=["doc2"]).ids) == {
        f"n{i}" for i in range(20, 30)
    }


def where(key, operator, value):
    return MetadataFilter(key=key, operator=operator, value=value)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (where("year", FilterOperator.GTE, 2028), {28, 29}),
        (where("year", FilterOperator.NE, 2000), set(range(1, 30))),
        (where("year", FilterOperator.IN, [2001, 2005]), {1, 5}),
        (where("lang", FilterOperator.NIN, ["en"]), set(range(0, 30, 2))),
        (where("tags", FilterOperator.CONTAINS, "t2"), set(range(2, 30, 3))),
        (where("tags", FilterOperator.ANY, ["t0", "t1"]), {i for i in range(30) if i % 3 != 2}),
        (where("tags", FilterOperator.ALL, ["a", "t1"]), set(range(1, 30, 3))),
        (where("lang", FilterOperator.TEXT_MATCH, "E"), set(range(30))),
        (where("absent", FilterOperator.IS_EMPTY, None), set(range(30))),
        (where("absent", FilterOperator.EQ, "x"), set()),
    ],
)
def test_filters(store, one, expected):
    found = store.get_nodes(filters=MetadataFilters(filters=[one]))
    assert {int(node.node_id[1:]) for node in found} == expected


def test_conditions(store, nodes):
    year = where("year", FilterOperator.LT, 2003)
    lang = where("lang", FilterOperator.EQ, "en")

    def ids(condition):
        filters = MetadataFilters(filters=[year, lang], condition=condition)
        return set(ask(store, nodes[0].embedding, 30, filters=filters).ids)

    assert ids(FilterCondition.AND) == {"n1"}
    assert ids(FilterCondition.OR) == {"n0", "n2", *(f"n{i}" for i in range(1, 30, 2))}
    assert ids(FilterCondition.NOT) == {f"n{i}" for i in range(4, 30, 2)}


def test_mmr(store, nodes):
    found = ask(store, nodes[3].embedding, 4, mode=VectorStoreQueryMode.MMR)
    assert found.ids[0] == "n3" and len(set(found.ids)) == 4


def test_deleting(store, nodes):
    store.delete("doc0")
    assert len(store.get_nodes()) == 20
    store.delete_nodes(["n10", "n11"])
    assert len(store.get_nodes()) == 18
    store.delete_nodes(
        filters=MetadataFilters(filters=[where("year", FilterOperator.GTE, 2020)])
    )
    assert len(store.get_nodes()) == 8
    store.delete_nodes()  # nothing named, nothing deleted
    assert len(store.get_nodes()) == 8
    store.clear()
    assert store.get_nodes() == [] and ask(store, nodes[0].embedding).ids == []
    store.add(nodes[:3])
    assert len(store.get_nodes()) == 3


def test_index_over_documents(embed, tmp_path):
    from llama_index.core import Document, StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding

    class Hashed(BaseEmbedding):
        def _get_text_embedding(self, text):
            return embed([text])[0].tolist()

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query):
            return self._get_text_embedding(query)

    store = QuashVectorStore(tmp_path / "a.qdb")
    documents = [Document(text=f"about {i}", metadata={"n": i}) for i in range(5)]
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=Hashed(),
        transformations=[],
    )
    assert len(store.get_nodes()) == 5
    index.delete_ref_doc(documents[2].doc_id)
    assert {node.metadata["n"] for node in store.get_nodes()} == {0, 1, 3, 4}
    store.close()
    again = QuashVectorStore(tmp_path / "a.qdb")
    found = VectorStoreIndex.from_vector_store(again, embed_model=Hashed()).as_retriever(
        similarity_top_k=2
    )
    assert len(found.retrieve("about 3")) == 2
    again.close()


def test_bad_input(store, nodes):
    with pytest.raises(quashdb.UnsupportedError, match="mode"):
        ask(store, nodes[0].embedding, mode=VectorStoreQueryMode.SPARSE)
    with pytest.raises(quashdb.InvalidError, match="expected"):
        ask(store, [1.0, 2.0])

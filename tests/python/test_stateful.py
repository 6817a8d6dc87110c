"""Random sequences of calls against a dict and NumPy."""

import os
import shutil
import tempfile

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import quashdb

DIM = 5
IDS = st.integers(0, 30)
# Coordinates from -8 to 8, exact in every tier, so that ties are ties. A vector is one
# number: drawing takes longer than what is done with it.
VECTORS = st.integers(0, 17**DIM - 1).map(
    lambda n: [(d + 1) // 2 * (-1) ** d for d in (n // 17**i % 17 for i in range(DIM))]
)
YEARS = st.none() | st.integers(2000, 2004)
DOCUMENTS = st.none() | st.sampled_from(["", "ü", "text"])
ROWS = st.dictionaries(IDS, st.tuples(VECTORS, YEARS, DOCUMENTS), min_size=1, max_size=12)


class Model(RuleBasedStateMachine):
    """self.rows: id to (vector, year, document) in insertion order."""

    @initialize(id_type=st.sampled_from(["int64", "string"]), bits=st.integers(1, 4),
                crowd=st.sampled_from([0, 0, 0, 1100]))  # fmt: skip
    def start(self, id_type, bits, crowd):
        self.folder = tempfile.mkdtemp()
        self.db = quashdb.open(self.folder + "/db", durability="normal")
        self.collection = self.db.create_collection(
            "a", DIM, "l2", id_type, bits, "f32", fields={"year": int}, partition_rows=1000
        )
        self.key = str if id_type == "string" else int
        self.rows = {}
        self.backups = 0
        self.crowd = {}
        self.steps_unread = 0
        if crowd:  # enough for a partition index
            rows = {self.key(1000 + i): ([i % 17 - 8, i % 5, i % 7, i % 11, i % 3], 2000 + i % 5,
                                         None) for i in range(crowd)}  # fmt: skip
            self.collection.add(*self._columns(rows))
            self.rows.update(rows)
            self.crowd = rows
            self.db.compact()
            assert self.collection.stats().lists > 0

    def teardown(self):
        if hasattr(self, "db"):
            self.db.close()
            shutil.rmtree(self.folder)

    def _columns(self, rows):
        return (
            [self.key(id) for id in rows],
            [row[0] for row in rows.values()],
            [None if row[1] is None else {"year": row[1]} for row in rows.values()],
            [row[2] for row in rows.values()],
        )

    @rule(rows=ROWS)
    def add(self, rows):
        rows = {self.key(id): row for id, row in rows.items()}
        try:
            self.collection.add(*self._columns(rows))
        except quashdb.ExistsError:
            assert rows.keys() & self.rows.keys()
        else:
            assert not rows.keys() & self.rows.keys()
            self.rows.update(rows)

    @rule(rows=ROWS)
    def upsert(self, rows):
        rows = {self.key(id): row for id, row in rows.items()}
        self.collection.upsert(*self._columns(rows))
        for id, row in rows.items():
            self.rows.pop(id, None)
            self.rows[id] = row

    @rule(ids=st.lists(IDS, max_size=8))
    def delete(self, ids):
        ids = [self.key(id) for id in ids]
        assert self.collection.delete(ids) == len(self.rows.keys() & set(ids))
        for id in ids:
            self.rows.pop(id, None)

    @rule(year=st.integers(2000, 2004))
    def delete_where(self, year):
        doomed = [id for id, row in self.rows.items() if row[1] is not None and row[1] < year]
        assert self.collection.delete(where={"year": {"$lt": year}}) == len(doomed)
        self.steps_unread = 100
        for id in doomed:
            del self.rows[id]

    @rule(query=VECTORS, k=st.integers(1, 40), year=YEARS, exact=st.booleans())
    def search(self, query, k, year, exact):
        where = None if year is None else {"year": {"$gte": year}}
        rows = {
            id: row for id, row in self.rows.items()
            if year is None or (row[1] is not None and row[1] >= year)
        }  # fmt: skip
        scores = {id: -float(np.sum((np.array(row[0]) - query) ** 2)) for id, row in rows.items()}
        expected = sorted(rows, key=lambda id: (-scores[id], self._order(id)))[:k]
        # Every list probed, every row a candidate: the search has nothing left to miss.
        hits = self.collection.query(query, k, where, exact=exact, candidates=2000,
                                     rerank_candidates=2000, nprobe=10000)[0]  # fmt: skip
        assert [self.key(id) for id in hits.ids] == expected
        assert hits.scores.tolist() == [scores[id] for id in expected]
        assert hits.documents == [rows[id][2] for id in expected]

    @rule()
    def compact(self):
        self.db.compact()
        self.steps_unread = 100

    @rule(mode=st.sampled_from(["create", "readwrite"]))
    def reopen(self, mode):
        self.db.close()
        self.db = quashdb.open(self.folder + "/db", mode, "normal")
        self.collection = self.db["a"]
        self.steps_unread = 100

    @precondition(lambda self: self.backups < 2)
    @rule()
    def back_up_and_go_on_in_the_copy(self):
        self.backups += 1
        copy = f"{self.folder}/copy{self.backups}"
        self.db.backup(copy)
        self.db.close()
        shutil.rmtree(self.folder + "/db")
        quashdb.restore(copy, self.folder + "/db")
        self.db = quashdb.open(self.folder + "/db", "readwrite", "normal")
        self.collection = self.db["a"]
        self.steps_unread = 100

    @rule()
    def verify(self):
        report = self.db.verify()
        assert report["ok"] and report["rows"] == len(self.rows)

    @invariant()
    def agrees(self):
        if not hasattr(self, "rows"):
            return
        assert len(self.collection) == len(self.rows)
        # Rows that only delete_where changes are read where it may matter, and each tenth step.
        self.steps_unread += 1
        read_all = not self.crowd or self.steps_unread > 10
        ids = [self.key(id) for id in range(31)]
        found = self.collection.get(
            None if read_all else ids, include=("metadatas", "documents", "vectors")
        )
        got = {
            self.key(row.id): (row.vector.tolist(), row.metadata.get("year"), row.document)
            for row in found
        }
        if read_all:
            assert got == self.rows
            self.steps_unread = 0
        else:
            assert got == {id: self.rows[id] for id in ids if id in self.rows}
        assert self.collection.contains(ids).tolist() == [id in self.rows for id in ids]

    def _order(self, id):
        return id.encode() if isinstance(id, str) else id


# More in both tiers of tests/reliability.py.
EXAMPLES = int(os.environ.get("QUASHDB_STATEFUL_EXAMPLES", 40))
STEPS = int(os.environ.get("QUASHDB_STATEFUL_STEPS", 25))
Model.TestCase.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # other jobs may want the processor
)  # fmt: skip
TestModel = Model.TestCase

"""Collections spread over shards on a Ray cluster.

    import ray
    import quashdb.ray

    quashdb.ray.connect()               # or ray.init()
    docs = quashdb.ray.create("/data/docs", "docs", dim=384, shards=4, replicas=1,
                              fields={"year": "int"})
    docs.ingest(ray.data.read_parquet("docs/"), vector="embedding")
    docs.query(vectors, k=10, where="year >= 2020")
    docs.reshard(8)
    docs.backup("/backups/docs")

Each shard is an ordinary database in a directory of its own, which quashdb.open()
and the shell read as well; a Ray actor holds it. See ShardedCollection.
"""

from quashdb.ray.collection import Hits, ShardedCollection
from quashdb.ray.opening import connect, create, open, restore

__all__ = ["Hits", "ShardedCollection", "connect", "create", "open", "restore"]

"""What a billion vectors need: bytes, time and money, from the format and measured rates.

    python3 bench/ray/plan.py
    python3 bench/ray/plan.py --rows 3e8 --dim 384 --nprobe 256

Prints the tables of README.md. Every rate is an argument; the defaults are what
bench/README.md and bench/ray/README.md measured, and what makers say of the hardware.
"""

import argparse
import math

MACHINES = {
    # name: (machines, cores, GB of memory, TB of NVMe, GB/s from memory, $ an hour), each machine.
    # Sizes and on-demand prices of c6id.16xlarge, r6id.32xlarge and c6id.12xlarge in us-east-1.
    "8 servers": (8, 32, 128, 3.8, 150, 3.23),
    "one large server": (1, 64, 1024, 7.6, 300, 9.68),
    "one small server": (1, 24, 96, 2.85, 110, 2.42),
}
ID_BYTES = 30  # id, bitmap and id table
NVME_GBPS = 4.0  # of one server, reads of 100 KB and more
NVME_IOPS = 500_000  # of one server, reads of 4 KB


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--shards", type=int, default=8, help="of the servers together")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--nprobe", type=int, default=128,
                        help="lists that a query reads of a shard")  # fmt: skip
    parser.add_argument("--candidates", type=int, default=16,
                        help="rows that a query reads of a shard's tier")  # fmt: skip
    parser.add_argument("--batch-ns", type=float, default=2.3,
                        help="core time of one row of 384 in a batch")  # fmt: skip
    parser.add_argument("--ingest", type=float, default=100_000,
                        help="durable rows of 384 a second of one shard")  # fmt: skip
    parser.add_argument("--network-gbps", type=float, default=12.5, help="GB/s of one server")
    return parser.parse_args()


class Plan:
    """Bytes and times for rows spread over machines and shards."""

    def __init__(self, given, name):
        self.machines, self.cores, self.memory_gb, self.nvme_tb, self.gbps, self.dollars = (
            MACHINES[name]
        )
        self.name = name
        self.given = given
        self.shards = given.shards if self.machines > 1 else 1
        self.rows = given.rows / self.shards  # of a shard
        dim = given.dim
        self.plane = dim / 8 + 4  # with its scale
        self.others = 3 * dim / 8 + 8
        self.tier = 2 * dim
        self.scanned_row = self.plane + 4  # with its slot
        self.list_row = self.scanned_row + 4 * dim / 8 + 4  # with whole codes
        self.list_rows = max(64, math.sqrt(self.rows) / 4)
        self.lists = self.rows / self.list_rows
        # With more lists a query's neighbours lie in more of them: assumed as the square root.
        of_shard = given.rows / given.shards
        lists_of_shard = of_shard / max(64, math.sqrt(of_shard) / 4)
        self.nprobe = given.nprobe * math.sqrt(self.lists / lists_of_shard)
        # A centroid: float32, and a plane to scan.
        self.centroid = 4 * dim + self.plane

    def disk_tb(self):
        row = self.plane + self.others + self.tier + self.list_row + ID_BYTES
        return self.given.rows * row / 1e12

    def memory_gb_of(self, what):
        rows = self.given.rows * {"planes": self.plane, "lists": self.list_row}[what]
        return (rows + self.shards * self.lists * self.centroid) / 1e9

    def exhaustive_ms(self):
        """One query: every machine reads its first planes at once."""
        return self.given.rows * self.plane / self.machines / (self.gbps * 1e9) * 1e3

    def probed_rows(self):
        return self.nprobe * self.list_rows

    def probe_bytes(self):
        """Of one query, on one machine: lists come from NVMe whole, from memory without the
        codes of most rows."""
        row = self.list_row if self.on_nvme() else self.scanned_row
        return (self.probed_rows() * row + self.lists * self.plane) * self.shards / self.machines

    def probe_ms(self):
        if self.on_nvme():
            return self.probe_bytes() / (NVME_GBPS * 1e9) * 1e3
        return self.probe_bytes() / (self.gbps * 1e9) * 1e3

    def by_cores(self, rows):
        """Queries/s in batches. rows: scanned for one query in all."""
        seconds = rows * self.given.batch_ns * self.given.dim / 384 * 1e-9
        return self.machines * self.cores / seconds

    def by_tier(self):
        """Queries/s at which candidates can be read from NVMe."""
        return self.machines * NVME_IOPS / (self.shards * self.given.candidates)

    def by_lists(self):
        return NVME_GBPS * 1e9 / self.probe_bytes() if self.on_nvme() else math.inf

    def queries_per_s(self):
        return min(self.by_cores(self.scanned()), self.by_tier(), self.by_lists())

    def on_nvme(self):
        """Whether lists do not fit in memory."""
        return self.memory_gb_of("lists") > 0.8 * self.memory_gb * self.machines

    def scanned(self):
        return (self.probed_rows() + self.lists) * self.shards

    def network_bytes(self):
        """Of one query to all shards and back."""
        return self.shards * (4 * self.given.dim + 12 * self.given.k)

    def ingest_minutes(self):
        rate = self.given.ingest * 384 / self.given.dim * self.shards
        rate = min(rate, self.machines * self.given.network_gbps * 1e9 / (4 * self.given.dim))
        return self.given.rows / rate / 60


def main():
    given = parse()
    plans = [Plan(given, name) for name in MACHINES]
    one = plans[0]
    print("| per vector | bytes |\n|---|---|")
    for what, size in [
        ("plane 1 and its scale: read of every row by an exhaustive search", one.plane),
        ("the other planes and scales: read of candidates", one.others),
        ("float16 tier: read of the last candidates", one.tier),
        ("in a list of the partition index: plane 1, whole codes, scales, slot", one.list_row),
        ("id, bitmap, id table", ID_BYTES),
    ]:
        print(f"| {what} | {size:,.0f} |")
    print(f"| in all, without metadata | {one.disk_tb() * 1e12 / given.rows:,.0f} |\n")
    print("| | " + " | ".join(p.name for p in plans) + " |")
    print("|---|" + "---|" * len(plans))
    for what, cells in [
        ("cores, memory, NVMe", [
            f"{p.machines * p.cores}, {p.machines * p.memory_gb:,} GB, "
            f"{p.machines * p.nvme_tb:g} TB" for p in plans]),
        ("disk used", [f"{p.disk_tb():.1f} TB" for p in plans]),
        ("first planes in memory", [f"{p.memory_gb_of('planes'):,.0f} GB" for p in plans]),
        ("lists and centroids", [
            f"{p.memory_gb_of('lists'):,.0f} GB{' on NVMe' if p.on_nvme() else ''}"
            for p in plans]),
        ("lists of a shard, rows of a list", [
            f"{p.lists:,.0f}, {p.list_rows:,.0f}" for p in plans]),
        ("one query, exhaustive", [f"{p.exhaustive_ms():,.0f} ms" for p in plans]),
        ("lists that a query reads of a shard, share of rows", [
            f"{p.nprobe:.0f}, {p.probed_rows() / p.rows * 100:.2f} %" for p in plans]),
        ("bytes of them on one server", [f"{p.probe_bytes() / 1e6:,.0f} MB" for p in plans]),
        ("time to read them", [f"{p.probe_ms():.1f} ms" for p in plans]),
        ("queries/s in batches, exhaustive", [f"{p.by_cores(given.rows):,.0f}" for p in plans]),
        ("queries/s in batches, lists: by cores", [
            f"{p.by_cores(p.scanned()):,.0f}" for p in plans]),
        (f"by reads of {given.candidates} candidates a shard from NVMe", [
            f"{p.by_tier():,.0f}" for p in plans]),
        ("by reads of lists from NVMe", [
            f"{p.by_lists():,.0f}" if p.on_nvme() else "" for p in plans]),
        ("network of one query", [
            f"{p.network_bytes() / 1e3:,.0f} KB" if p.machines > 1 else "none" for p in plans]),
        ("network at 1,000 queries/s", [
            f"{p.network_bytes() / 1e3:,.0f} MB/s" if p.machines > 1 else "none" for p in plans]),
        ("ingest of all", [f"{p.ingest_minutes():,.0f} minutes" for p in plans]),
        ("$ an hour", [f"{p.machines * p.dollars:.2f}" for p in plans]),
        ("$ for a million queries, lists", [
            f"{p.machines * p.dollars / 3600 / p.queries_per_s() * 1e6:.2f}"
            for p in plans]),
    ]:  # fmt: skip
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

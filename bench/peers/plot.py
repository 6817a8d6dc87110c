"""Draws the results of compare.py: time against recall, memory and disk.

    python3 bench/peers/plot.py OUT/compare.json bench/peers/debian_packages

Writes PREFIX.recall.png and PREFIX.sizes.png; needs matplotlib. Times are ratios
to the default QuashDB row, taken within a round, so that a slow machine slows all.
A row whose times are missing is left out of that half.
"""

import argparse
import json
import pathlib
import statistics

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  pylint: disable=wrong-import-position

COLORS = {"FAISS": "#4c72b0", "turbovec": "#8172b3", "hnswlib": "#55a868", "usearch": "#937860",
          "tqdb": "#8c8c8c", "zvec": "#64b5cd", "QuashDB": "#c44e52"}
MARKS = {"codes": "o", "rerank": "D", "graph": "^", "exact": "s"}  # by family
REFERENCE = "quashdb-default"


def color(name):
    return COLORS.get(name.split()[0], "#333333")


def ratio(row, reference, field):
    """Median over rounds of the row's time over the reference's; None: not measured."""
    pairs = list(zip(row[field], reference[field]))
    return statistics.median(mine / theirs for mine, theirs in pairs) if pairs else None


def frontier(points):
    """(recall, time) that no other is better than in both, by recall."""
    best, left = float("inf"), []
    for recall, time in sorted(points, reverse=True):
        if time < best:
            best = time
            left.append((recall, time))
    return left[::-1]


def curve(row, at):
    """What other settings gave. They were timed once, the chosen one in every round:
    the ratio of the latter takes out what the machine did meanwhile."""
    chosen = next((one["one_query_us"] for one in row["tried"]
                   if one["description"] == row["setting"]), None)
    if chosen is None:
        return []
    return frontier([(one["recall"], one["one_query_us"] / chosen * at) for one in row["tried"]])


def draw_recall(rows, about, path, threads):
    figure, axes = pyplot.subplots(1, 2, figsize=(12.5, 5.2), sharey=True)
    for axis, field, title in ((axes[0], "one_query_us", "one query per call"),
                               (axes[1], "batch_us", "queries in a batch")):
        for row in rows.values():
            name, at = row["name"], ratio(row, rows[REFERENCE], field)
            if at is None:
                continue
            if field == "one_query_us" and len(row["tried"]) > 1:
                axis.plot(*zip(*curve(row, at)), color=color(name), linewidth=1, alpha=0.6)
            axis.plot(min(row["recall"], 0.9995), at, MARKS[row["family"]], color=color(name),
                      markersize=8 if name.startswith("QuashDB") else 6, markeredgecolor="white",
                      label=name)
        axis.set_yscale("log")
        axis.set_xscale("logit")
        axis.set_xlim(0.7, 0.9997)
        ticks = [0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(f"recall@{about['k']}")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("time per query, QuashDB's default is 1 (less is better)")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.suptitle(f"{about['rows']:,} × {about['dim']}, {threads} thread(s), "
                    f"{about['machine']['cpu']}, {about['isa']}; circles: codes only, diamonds: "
                    "originals kept, triangles: graphs, square: exact", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def draw_sizes(built, path):
    rows = sorted(built.values(), key=lambda row: row["memory_bytes_per_row"])
    names = [row["name"] for row in rows]
    figure, axes = pyplot.subplots(1, 2, figsize=(12.5, 4.6), sharey=True)
    for axis, field, title in ((axes[0], "memory_bytes_per_row", "memory, bytes per vector"),
                               (axes[1], "disk_bytes_per_row", "disk, bytes per vector")):
        axis.barh(names, [row[field] for row in rows], color=[color(name) for name in names])
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=pathlib.Path)
    parser.add_argument("prefix")
    parser.add_argument("--threads", default="1", help="which run of compare.py")
    arguments = parser.parse_args()
    result = json.loads(arguments.json.read_text(encoding="utf-8"))
    rows = result["searched"][arguments.threads]
    if REFERENCE not in rows:
        raise SystemExit(f"{arguments.json} has no row {REFERENCE}")
    draw_recall(rows, result["about"], f"{arguments.prefix}.recall.png", arguments.threads)
    draw_sizes(result["built"], f"{arguments.prefix}.sizes.png")


if __name__ == "__main__":
    main()

"""Draws the results of compare.py: recall against time, memory, build rate.

    python3 bench/peers/plot.py OUT/compare.json bench/peers/debian_packages

Writes PREFIX.recall.png and PREFIX.sizes.png; needs matplotlib.
"""

import argparse
import json
import pathlib
import statistics

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  pylint: disable=wrong-import-position

PEER_COLORS = {"FAISS": "#4c72b0", "turbovec": "#8172b3", "hnswlib": "#55a868",
               "usearch": "#937860", "tqdb": "#8c8c8c", "zvec": "#64b5cd", "QuashDB": "#c44e52"}
# Marks by family.
MARKS = {"codes": "o", "rerank": "D", "graph": "^", "exact": "s"}


def color(name):
    return PEER_COLORS.get(name.split()[0], "#333333")


def frontier(points):
    """(recall, µs) that no other is better than in both, by recall."""
    best, left = float("inf"), []
    for recall, micros in sorted(points, reverse=True):
        if micros < best:
            best = micros
            left.append((recall, micros))
    return left[::-1]


def draw_recall(rows, about, path, threads):
    figure, axes = pyplot.subplots(1, 2, figsize=(12.5, 5.2), sharey=False)
    for axis, field, title in ((axes[0], "one_query_us", "one query per call"),
                               (axes[1], "batch_us", "queries in a batch")):
        for row in rows.values():
            name, recall = row["name"], row["recall"]
            micros = statistics.median(row[field])
            if field == "one_query_us" and len(row["tried"]) > 1:
                # Other settings were timed once, the chosen one in every round: what
                # the machine did meanwhile is taken out by their ratio.
                chosen = next((one["one_query_us"] for one in row["tried"]
                               if one["description"] == row["setting"]), None)
                scale = micros / chosen if chosen else 1
                curve = frontier([(one["recall"], one["one_query_us"] * scale)
                                  for one in row["tried"]])
                axis.plot(*zip(*curve), color=color(name), linewidth=1, alpha=0.6)
            axis.plot(recall, micros, MARKS[row["family"]], color=color(name),
                      markersize=8 if name.startswith("QuashDB") else 6, markeredgecolor="white",
                      label=name)
        axis.set_yscale("log")
        axis.set_xscale("logit")
        axis.set_xlim(0.7, 0.9997)
        ticks = [0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(f"recall@{about['k']}")
        axis.set_ylabel("µs per query (less is better)")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.suptitle(f"{about['rows']:,} × {about['dim']}, {threads} thread(s), "
                    f"{about['machine']['cpu']}, {about['isa']}; circles: codes only, diamonds: "
                    "originals kept, triangles: graphs", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def draw_sizes(built, path):
    rows = sorted(built.values(), key=lambda row: row["memory_bytes_per_row"])
    figure, axes = pyplot.subplots(1, 2, figsize=(12.5, 4.6), sharey=True)
    names = [row["name"] for row in rows]
    colors = [color(name) for name in names]
    axes[0].barh(names, [row["memory_bytes_per_row"] for row in rows], color=colors)
    axes[0].set_title("memory, bytes per vector", fontsize=10)
    axes[1].barh(names, [row["build_rows_per_second"] for row in rows], color=colors)
    axes[1].set_xscale("log")
    axes[1].set_title("building on one core, vectors per second", fontsize=10)
    for axis in axes:
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
    draw_recall(result["searched"][arguments.threads], result["about"],
                f"{arguments.prefix}.recall.png", arguments.threads)
    draw_sizes(result["built"], f"{arguments.prefix}.sizes.png")


if __name__ == "__main__":
    main()

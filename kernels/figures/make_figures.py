"""Draws the figures of kernels/CONCEPTS.md from datasets/sample.

    python3 kernels/figures/make_figures.py

Needs numpy and matplotlib. Everything is computed here, in plain numpy, from the
definitions: the density of a coordinate, its Lloyd-Max levels, a random rotation.
"""

import json
import pathlib
import zlib

import matplotlib
matplotlib.use("Agg")
import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SAMPLE = HERE.parents[1] / "datasets" / "sample"
RED, BLUE, GREY = "#c44e52", "#4c72b0", "#8c8c8c"
matplotlib.rcParams.update({"svg.hashsalt": "quashdb", "svg.fonttype": "none",
                            "font.family": "sans-serif", "font.size": 9, "axes.grid": True,
                            "grid.alpha": 0.25, "figure.figsize": (7.2, 3.0)})


def density(dim):
    """Grid and density of one coordinate of a random unit vector, times sqrt(dim)."""
    t = np.linspace(-6, 6, 24001)
    inside = np.clip(1 - t * t / dim, 0, None)
    weight = inside ** ((dim - 3) / 2)
    return t, weight / weight.sum()


def curve(dim):
    """The density as a curve to draw."""
    t, weight = density(dim)
    return t[::100], (weight / (t[1] - t[0]))[::100]


def lloyd_max(dim, bits):
    """Levels, boundaries and mean squared error of the best quantizer for it."""
    t, weight = density(dim)
    levels = np.quantile(np.random.default_rng(0).standard_normal(100000),
                         (np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(2000):
        boundaries = (levels[1:] + levels[:-1]) / 2
        cell = np.searchsorted(boundaries, t)
        mass = np.bincount(cell, weight, 2**bits)
        moved = np.bincount(cell, weight * t, 2**bits) / mass
        if np.abs(moved - levels).max() < 1e-9:
            break
        levels = moved
    error = (weight * (t - levels[cell]) ** 2).sum()
    return levels, boundaries, error


def load():
    base = np.load(SAMPLE / "vectors.npy").astype(np.float32)
    queries = np.load(SAMPLE / "queries.npy").astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries))


def rotation(dim):
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(np.random.default_rng(42).standard_normal((dim, dim)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def save(figure, name):
    figure.tight_layout()
    figure.savefig(HERE / name, metadata={"Date": None})
    pyplot.close(figure)


def word_counts(dim):
    """A vector that no quantizer likes: how often each word of one description
    occurs, words hashed to coordinates. Most are zero, a few are large."""
    counts = np.zeros(dim)
    with open(SAMPLE / "packages.jsonl", encoding="utf-8") as lines:
        for word in json.loads(next(lines))["text"].lower().split():
            counts[zlib.crc32(word.encode()) % dim] += 1
    return counts / np.linalg.norm(counts)


def draw_rotation(dim):
    """The coordinates of one vector, before and after."""
    counts = word_counts(dim)
    figure, axes = pyplot.subplots(1, 3, sharey=True, width_ratios=(3, 3, 1.2))
    for axis, vector, title in ((axes[0], counts, "word counts of one text"),
                                (axes[1], rotation(dim) @ counts, "the same vector, rotated")):
        lines = np.stack([np.zeros(dim), vector * np.sqrt(dim), np.full(dim, np.nan)], 1)
        axis.plot(np.repeat(np.arange(dim), 3), lines.ravel(), color=RED, linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("coordinate")
    axes[0].set_ylabel(r"value × $\sqrt{d}$")
    axes[2].hist(rotation(dim) @ counts * np.sqrt(dim), np.linspace(-4, 4, 33), density=True,
                 orientation="horizontal", color=RED, alpha=0.5)
    t, height = curve(dim)
    axes[2].plot(height, t, color=BLUE, linewidth=1)
    axes[2].set_title("its coordinates\nand theory", fontsize=9)
    axes[2].set_xticks([])
    save(figure, "rotation.svg")


def draw_codebook(dim):
    figure, axes = pyplot.subplots(1, 2, sharey=True)
    t, height = curve(dim)
    for axis, bits in zip(axes, (2, 4)):
        levels, boundaries, error = lloyd_max(dim, bits)
        axis.plot(t, height, color=BLUE, linewidth=1)
        axis.vlines(boundaries, 0, 0.42, color=GREY, linewidth=0.7, linestyle="dotted")
        axis.plot(levels, np.interp(levels, t, height), "o", color=RED, markersize=4)
        for code, level in enumerate(levels):
            if bits == 2 or code % 3 == 0:
                axis.annotate(format(code, f"0{bits}b"), (level, 0.005), ha="center", fontsize=7)
        axis.set_title(f"{bits} bits: {2**bits} levels, error {error:.4f}", fontsize=9)
        axis.set_xlim(-3.4, 3.4)
        axis.set_xlabel(r"value × $\sqrt{d}$")
    save(figure, "codebook.svg")


def codes_of(turned):
    dim = turned.shape[1]
    levels, boundaries, _ = lloyd_max(dim, 4)
    return np.searchsorted(boundaries, turned * np.sqrt(dim)), levels


def prefix_levels(turned, codes, bits):
    """Levels of the top bits of a 4-bit code: the mean of what falls into each cell."""
    cell = codes >> (4 - bits)
    values = turned * np.sqrt(turned.shape[1])
    sums = np.bincount(cell.ravel(), values.ravel(), 2**bits)
    return sums / np.bincount(cell.ravel(), minlength=2**bits)


def draw_planes(turned, codes):
    dim = turned.shape[1]
    figure, axes = pyplot.subplots(1, 2)
    axes[0].plot(*curve(dim), color=BLUE, linewidth=1)
    for bits, height in ((1, 0.30), (2, 0.20), (4, 0.10)):
        levels = prefix_levels(turned, codes, bits)
        axes[0].plot(levels, np.full(len(levels), height), "|", color=RED, markersize=10)
        for code, level in enumerate(levels):
            if bits < 4:
                axes[0].annotate(format(code, f"0{bits}b"), (level, height + 0.025), ha="center",
                                 fontsize=7)
        axes[0].annotate(f"{bits} plane{'s' if bits > 1 else ''}" if bits < 4 else "all",
                         (-3.3, height), fontsize=7, va="center")
    axes[0].set_xlim(-3.4, 3.4)
    axes[0].set_title("one 4-bit code, read in part", fontsize=9)
    axes[0].set_xlabel(r"value × $\sqrt{d}$")
    values = turned * np.sqrt(dim)
    mine = [float(((values - prefix_levels(turned, codes, bits)[codes >> (4 - bits)]) ** 2).mean())
            for bits in (1, 2, 3, 4)]
    best = [lloyd_max(dim, bits)[2] for bits in (1, 2, 3, 4)]
    axes[1].semilogy((1, 2, 3, 4), best, "o-", color=BLUE, label="the best quantizer of so many bits")
    axes[1].semilogy((1, 2, 3, 4), mine, "x--", color=RED, label="top bits of a 4-bit code")
    axes[1].set_xticks((1, 2, 3, 4))
    axes[1].set_xlabel("bits read per coordinate")
    axes[1].set_title("mean squared error", fontsize=9)
    axes[1].legend(fontsize=7, frameon=False)
    save(figure, "planes.svg")


def recall(found, truth):
    return float(np.mean([len(set(row) & set(true)) / len(true)
                          for row, true in zip(found, truth)]))


def draw_rerank(base, queries, turned, codes):
    """Recall of the exact best ten among the rows that each stage keeps."""
    dim = base.shape[1]
    exact = queries @ base.T
    truth = np.argsort(-exact, axis=1, kind="stable")[:, :10]
    rotated_queries = queries @ rotation(dim).T
    figure, axis = pyplot.subplots()
    kept = np.array([10, 14, 20, 30, 50, 70, 100, 150, 200, 300, 500])
    for bits, style, label in ((1, "o-", "plane 1"), (2, "s-", "planes 1 and 2"),
                               (4, "^-", "whole 4-bit code")):
        values = prefix_levels(turned, codes, bits)[codes >> (4 - bits)].astype(np.float32)
        # Each row's scale: |x| / <u, y>
        values *= np.sqrt(dim) / (turned * np.sqrt(dim) * values).sum(1, keepdims=True)
        order = np.argsort(-(rotated_queries @ values.T), axis=1, kind="stable")
        found = [recall(order[:, :k], truth) for k in kept]
        axis.plot(kept, found, style, markersize=4, label=label)
        print(f"{label}: " + ", ".join(f"{k}: {x:.4f}" for k, x in zip(kept, found)))
    axis.set_xscale("log")
    axis.set_xticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axis.minorticks_off()
    axis.set_ylim(0.6, 1.005)
    axis.set_xlabel("rows kept, of 5,000, for the next stage")
    axis.set_ylabel("share of the true best 10")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    save(figure, "rerank.svg")


def main():
    base, queries = load()
    turned = base @ rotation(base.shape[1]).T
    codes, _ = codes_of(turned)
    draw_rotation(base.shape[1])
    draw_codebook(base.shape[1])
    draw_planes(turned, codes)
    draw_rerank(base, queries, turned, codes)


if __name__ == "__main__":
    main()

"""Perplexity of a model over a packed cache, next to the same model over an
uncompressed one.

    python3 bench/kv/perplexity.py --model DIR --texts tokens.json --out /tmp/kv

Windows of --window tokens go through QuashKVCache in chunks of one page, so that
a token sees its own page as given and earlier ones packed, as while generating.
Per configuration: the change of perplexity, the mean KL divergence of the next
token's distribution, and the bits that a number of a sealed page takes, with
scales and means. Calibrated outliers come from the tokens after the last window,
which are not scored.
"""

import math

import torch

import kv_bench

ENDS = (0, -1)


def configurations():
    """{name: (group, options of QuashKVCacheConfig)}; bits are of keys and values."""
    made = {}
    for bits in (4, 3.5, 3, 2.5, 2):
        made[f"{bits}-bit"] = ("default", {"key_bits": bits, "value_bits": bits})
    for keys, values in ((4, 3), (3, 4), (4, 2), (2, 4)):
        made[f"keys {keys}, values {values}"] = (
            "uneven", {"key_bits": keys, "value_bits": values})
    for bits in (3.5, 2.5):
        made[f"{bits}-bit, calibrated outliers"] = (
            "calibrated", {"key_bits": bits, "value_bits": bits, "calibrate": True})
    variants = {
        "no means": {"k_mean": False, "v_mean": False},
        "means of keys only": {"v_mean": False},
        "no sink page": {"sink_pages": 0},
        "no means, no sink page": {"k_mean": False, "v_mean": False, "sink_pages": 0},
        "first and last layer as given": {"uncompressed_layers": ENDS},
        "hadamard rotation": {"rotation": "hadamard"},
        "dense rotation": {"rotation": "dense"},
        "tq_prod keys": {"k_quantizer": "tq_prod"},
    }
    for bits in (4, 3, 2):
        if bits == 2:
            variants["reserve 16"] = {"reserve": 16}
        for name, options in variants.items():
            made[f"{bits}-bit, {name}"] = (
                name, {"key_bits": bits, "value_bits": bits, **options})
    return made


def calibrated_outliers(model, tokens):
    """{"k_outliers", "v_outliers"}: the half of the coordinates with the most
    energy, over all layers and heads, each layer counting alike."""
    energies = [0.0, 0.0]
    for pair in kv_bench.keys_and_values(model, torch.tensor([tokens])):
        for side, tensor in enumerate(pair):
            energy = tensor.square().mean((0, 1, 2))
            energies[side] = energies[side] + energy / energy.sum()
    half = energies[0].numel() // 2
    return {name: sorted(energy.topk(half).indices.tolist())
            for name, energy in zip(("k_outliers", "v_outliers"), energies)}


@torch.inference_mode()
def measure(model, texts, chosen, arguments):
    """{name: {text: {"loss", "kl"}, "effective_bits"}}, "exact" included."""
    sums = {name: {text: [0.0, 0.0, 0] for text in texts} for name in ["exact", *chosen]}
    bits = {}
    for text, tokens in texts.items():
        ids, rest = kv_bench.windows(tokens, arguments.window, arguments.windows)
        outliers = {}
        if any(options.get("calibrate") for _, options in chosen.values()):
            if len(rest) < kv_bench.PAGE:
                raise SystemExit(f"Error: {text} leaves {len(rest)} tokens to calibrate on")
            outliers = calibrated_outliers(model, rest)
        for first in range(0, len(ids), arguments.batch):
            batch = ids[first:first + arguments.batch]
            exact = dict(kv_bench.chunked_logprobs(model, batch, kv_bench.exact_cache(model)))
            for name in sums:
                if name == "exact":
                    chunks = exact.items()
                else:
                    options = dict(chosen[name][1])
                    if options.pop("calibrate", False):
                        options |= outliers
                    cache = kv_bench.packed_cache(model, **options)
                    chunks = kv_bench.chunked_logprobs(model, batch, cache)
                total = sums[name][text]
                for begin, logprobs in chunks:
                    losses = kv_bench.token_losses(logprobs, begin, batch)
                    total[0] += losses.sum().item()
                    reference = exact[begin]
                    total[1] += (reference.exp() * (reference - logprobs)).sum(-1).sum().item() \
                        * losses.shape[1] / logprobs.shape[1]
                    total[2] += losses.numel()
                if name != "exact" and name not in bits:
                    stats = cache.compression_stats()
                    bits[name] = (stats["k_effective_bits"] + stats["v_effective_bits"]) / 2
            kv_bench.progress(f"{text}: {min(first + arguments.batch, len(ids))} of {len(ids)} "
                              "windows")
    return {name: {"effective_bits": bits.get(name), "texts": {
        text: {"loss": loss / count, "kl": kl / count}
        for text, (loss, kl, count) in of_texts.items()}} for name, of_texts in sums.items()}


def change(measured, name, text):
    """Change of perplexity in percent."""
    return 100 * math.expm1(measured[name]["texts"][text]["loss"]
                            - measured["exact"]["texts"][text]["loss"])


def report(measured, chosen, texts, out, facts):
    header = ["configuration", "bits/number"]
    for text in texts:
        perplexity = math.exp(measured["exact"]["texts"][text]["loss"])
        header += [f"{text} ΔPPL (exact {perplexity:.3f})", f"{text} KL × 1000"]
    rows = []
    for name in chosen:
        row = [name, f"{measured[name]['effective_bits']:.2f}"]
        for text in texts:
            row += [f"{change(measured, name, text):+.2f} %",
                    f"{1000 * measured[name]['texts'][text]['kl']:.2f}"]
        rows.append(row)
    kv_bench.save(out, "perplexity", {"about": facts, "measured": measured},
                  "# Perplexity over a packed cache\n\n" + kv_bench.table(header, rows))

    figure, axes = kv_bench.new_plot(len(texts))
    for axis, text in zip(axes, texts):
        groups = {}
        for name, (group, _) in chosen.items():
            groups.setdefault(group, []).append(
                (measured[name]["effective_bits"], change(measured, name, text)))
        for group, points in groups.items():
            points.sort()
            axis.plot(*zip(*points), marker="o", label=group,
                      linewidth=2 if group == "default" else 0.8)
        axis.set_yscale("symlog", linthresh=1)
        axis.set_xlabel("bits per number, scales and means included")
        axis.set_ylabel("change of perplexity, %")
        axis.set_title(text)
    axes[0].legend(fontsize=7)
    kv_bench.save_plot(out, "perplexity", figure)


def main():
    parser = kv_bench.parser(__doc__)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=0, help="of each text; 0: all")
    parser.add_argument("--batch", type=int, default=4, help="windows at a time")
    parser.add_argument("--dtype", choices=kv_bench.DTYPES, default="float32")
    parser.add_argument("--only", nargs="+", help="configurations, by the start of their names")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    chosen = configurations()
    if arguments.only:
        chosen = {name: value for name, value in chosen.items()
                  if name.startswith(tuple(arguments.only))}
    texts = kv_bench.load_texts(arguments.texts, arguments.model)
    model = kv_bench.load_model(arguments.model, kv_bench.DTYPES[arguments.dtype])
    facts = kv_bench.about(model=arguments.model, dtype=arguments.dtype, window=arguments.window,
                           threads=torch.get_num_threads())
    measured = measure(model, texts, chosen, arguments)
    report(measured, chosen, list(texts), arguments.out, facts)


if __name__ == "__main__":
    main()

"""Whether a model still copies from a packed cache: the loss on the second
occurrence of a passage inside one window.

    python3 bench/kv/needle.py --model DIR --texts tokens.json --out /tmp/kv

A window is text with a passage of --length tokens at --distances tokens before its
end, and the same passage again as its end. The first occurrence lies in sealed
pages, so the loss on the second tells whether attention finds and reads them.
"""

import torch

import kv_bench

BITS = (4, 3.5, 3, 2.5, 2)


def windows_of(tokens, arguments, distance):
    """[samples, window]: fillers and passages from different parts of the text."""
    made = []
    step = (len(tokens) - 2 * arguments.window) // arguments.samples
    for i in range(arguments.samples):
        filler = tokens[i * step:i * step + arguments.window]
        begin = (i * step + len(tokens) // 2) % (len(tokens) - arguments.length)
        passage = tokens[begin:begin + arguments.length]
        end = arguments.window - arguments.length
        window = filler[:end] + passage
        window[end - distance:end - distance + arguments.length] = passage
        made.append(window)
    return torch.tensor(made)


def second_loss(model, ids, cache, length):
    """Mean loss of the repeated passage, its first token left out: it is a surprise."""
    losses = torch.cat([kv_bench.token_losses(logprobs, first, ids) for first, logprobs in
                        kv_bench.chunked_logprobs(model, ids, cache)], 1)
    return losses[:, -(length - 1):].mean().item()


def main():
    parser = kv_bench.parser(__doc__)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--length", type=int, default=64, help="of the passage")
    parser.add_argument("--distances", type=int, nargs="+", default=[256, 512, 1024, 1792])
    parser.add_argument("--samples", type=int, default=8, help="per text and distance")
    arguments = parser.parse_args()
    texts = kv_bench.load_texts(arguments.texts, arguments.model)
    model = kv_bench.load_model(arguments.model)
    losses = {}
    for distance in arguments.distances:
        ids = torch.cat([windows_of(tokens, arguments, distance) for tokens in texts.values()])
        caches = {"never seen before": None, "exact": lambda: kv_bench.exact_cache(model)}
        caches |= {f"{bits} bits": lambda bits=bits: kv_bench.packed_cache(
            model, key_bits=bits, value_bits=bits) for bits in BITS}
        for name, make in caches.items():
            shown = ids
            if make is None:  # the same window without the first occurrence
                shown, make = ids.clone(), caches["exact"]
                at = arguments.window - arguments.length - distance
                shown[:, at:at + arguments.length] = ids[:, :arguments.length]
            losses.setdefault(name, []).append(
                second_loss(model, shown, make(), arguments.length))
        kv_bench.progress(f"distance {distance}")
    rows = [[name, *(f"{loss:.3f}" for loss in values)] for name, values in losses.items()]
    kv_bench.save(arguments.out, "needle",
                  {"about": kv_bench.about(model=arguments.model, samples=len(ids)),
                   "distances": arguments.distances, "losses": losses},
                  "# Loss on the second occurrence of a passage\n\n" + kv_bench.table(
                      ["cache", *(f"{n} tokens before" for n in arguments.distances)], rows))
    figure, (axis,) = kv_bench.new_plot()
    for name, values in losses.items():
        axis.plot(arguments.distances, values, marker="o", label=name)
    axis.set_xlabel("tokens between the occurrences")
    axis.set_ylabel("loss on the second occurrence")
    axis.legend()
    kv_bench.save_plot(arguments.out, "needle", figure)


if __name__ == "__main__":
    main()

"""Keys with a large bias, as some models have them: do low bits collapse?

    python3 bench/kv/key_bias.py --model DIR --texts tokens.json --out /tmp/kv

Gives every layer's key projection a bias of --norms times its mean key norm, on
the coordinates that RoPE turns slowest, so that all keys share a large common part
(in Qwen2.5 the biases of the first and last layers are some 30 times those of the
others). A softmax forgets what all keys have in common, up to the rotation, so the
exact model still reads; a quantizer that spends its range on the common part does
not. Compared with the same biased model over an uncompressed cache.
"""

import copy
import math

import torch

import kv_bench

VARIANTS = {
    "defaults": {},
    "no page means": {"k_mean": False, "v_mean": False},
    "no means, tq_prod keys": {"k_mean": False, "v_mean": False, "k_quantizer": "tq_prod"},
}


@torch.no_grad()
def with_bias(model, norm, typical, coordinates):
    """A copy whose keys have a bias of norm * typical in each head."""
    biased = copy.deepcopy(model)
    for layer in biased.model.layers:
        projection = layer.self_attn.k_proj
        d = layer.self_attn.head_dim
        generator = torch.Generator().manual_seed(1)
        bias = torch.zeros(projection.out_features // d, d)
        # Rotary pairs are (j, j + d / 2); the last pairs turn slowest.
        slow = [*range(d // 2 - coordinates, d // 2), *range(d - coordinates, d)]
        bias[:, slow] = torch.randn(len(bias), len(slow), generator=generator)
        bias *= norm * typical / bias.norm(dim=1, keepdim=True)
        projection.bias = torch.nn.Parameter(bias.reshape(-1))
    return biased


def losses_of(model, ids, cache, exact=None):
    """(mean loss, mean KL against `exact`, the log-probabilities by chunk)."""
    loss, kl, chunks = [], [], {}
    for first, logprobs in kv_bench.chunked_logprobs(model, ids, cache):
        loss.append(kv_bench.token_losses(logprobs, first, ids).flatten())
        if exact is None:
            chunks[first] = logprobs
        else:
            kl.append((exact[first].exp() * (exact[first] - logprobs)).sum(-1).flatten())
    return torch.cat(loss).mean().item(), torch.cat(kl).mean().item() if kl else 0.0, chunks


def main():
    parser = kv_bench.parser(__doc__)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=1, help="of each text")
    parser.add_argument("--norms", type=float, nargs="+", default=[0, 3, 10, 30])
    parser.add_argument("--coordinates", type=int, default=4, help="slow pairs with a bias")
    arguments = parser.parse_args()
    texts = kv_bench.load_texts(arguments.texts, arguments.model)
    model = kv_bench.load_model(arguments.model)
    ids = torch.cat([kv_bench.windows(tokens, arguments.window, arguments.windows)[0]
                     for tokens in texts.values()])
    typical = torch.stack([k.norm(dim=-1).mean() for k, _ in
                           kv_bench.keys_and_values(model, ids[:1])]).mean().item()
    results = {}
    for norm in arguments.norms:
        biased = with_bias(model, norm, typical, arguments.coordinates)
        exact_loss, _, exact = losses_of(biased, ids, kv_bench.exact_cache(biased))
        one = results[norm] = {"exact": {"ppl": math.exp(exact_loss)}}
        for bits in (4, 3, 2):
            for name, options in VARIANTS.items():
                cache = kv_bench.packed_cache(biased, key_bits=bits, value_bits=bits, **options)
                loss, kl, _ = losses_of(biased, ids, cache, exact)
                one[f"{bits}-bit, {name}"] = {"ppl": math.exp(loss), "kl": kl}
        kv_bench.progress(f"bias of {norm} key norms: exact perplexity {math.exp(exact_loss):.2f}")
    rows = [[name, *(f"{results[norm][name]['ppl']:,.2f}" for norm in arguments.norms)]
            for name in results[arguments.norms[0]]]
    kv_bench.save(arguments.out, "key_bias",
                  {"about": kv_bench.about(model=arguments.model, key_norm=round(typical, 2)),
                   "results": results},
                  "# Perplexity with biased keys\n\n" + kv_bench.table(
                      ["cache", *(f"bias {n:g} × the key norm" for n in arguments.norms)], rows))
    figure, axes = kv_bench.new_plot(3, width=4)
    for axis, bits in zip(axes, (4, 3, 2)):
        axis.plot(arguments.norms, [results[n]["exact"]["ppl"] for n in arguments.norms],
                  color="black", label="exact")
        for name in VARIANTS:
            axis.plot(arguments.norms,
                      [results[n][f"{bits}-bit, {name}"]["ppl"] for n in arguments.norms],
                      marker="o", label=name)
        axis.set_yscale("log")
        axis.set_title(f"{bits} bits")
        axis.set_xlabel("bias, in key norms")
    axes[0].set_ylabel("perplexity")
    axes[0].legend(fontsize=7)
    kv_bench.save_plot(arguments.out, "key_bias", figure)


if __name__ == "__main__":
    main()

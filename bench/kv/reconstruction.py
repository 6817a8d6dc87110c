"""What quantizing does to keys, values and attention, next to theory; compression.

    python3 bench/kv/reconstruction.py --model DIR --texts tokens.json --out /tmp/kv

One window of each text, all layers. Keys and values are quantized alone (no page
means), as unit vectors for theory's MSE, and through sealed pages. The error of
attention is that of the last --queries positions of each layer against float64
attention over the exact keys and values, relative to the output's norm: of the
fused kernel, and of attention in float64 over the decompressed tokens, which is
the least that the codes allow. Ratios are against float16, block tables included.
"""

import math

import torch

import kv_bench
from quashdb import kv

BITS = (4, 3.5, 3, 2.5, 2)


def quantizer(head_dim, bits, kind):
    if kind == "tq_prod":
        return kv.InnerProductQuantizer(head_dim, int(bits))
    if bits == int(bits):
        return kv.MSEQuantizer(head_dim, int(bits))
    return kv.MixedPrecisionMSEQuantizer(head_dim, math.ceil(bits), math.floor(bits),
                                         head_dim // 2)


def theory(bits):
    """Lloyd-Max MSE of a unit vector; halves of it each at their own bits."""
    low, high = math.floor(bits), math.ceil(bits)
    return (kv.theory.LLOYD_MAX_MSE[low] + kv.theory.LLOYD_MAX_MSE[high]) / 2


def vector_errors(pairs, bits, kind):
    """[(MSE of unit vectors, cosine)] of keys and of values."""
    errors = []
    for side in range(2):
        x = torch.cat([pair[side].reshape(-1, pair[side].shape[-1]) for pair in pairs])
        x = x / x.norm(dim=-1, keepdim=True)
        made = quantizer(x.shape[-1], bits, kind)
        back = made.decompress(*made.compress(x))
        errors.append(((x - back).square().sum(-1).mean().item(),
                       torch.cosine_similarity(x, back, dim=-1).mean().item()))
    return errors


def attention(q, k, v, scale):
    """float64 [heads, d] of q [heads, d] over k, v [kv_heads, n, d]."""
    group = q.shape[0] // k.shape[0]
    k, v = (x.double().repeat_interleave(group, 0) for x in (k, v))
    weights = torch.softmax(torch.einsum("hd,hnd->hn", q.double(), k) * scale, -1)
    return torch.einsum("hn,hnd->hd", weights, v)


def attention_errors(pairs, queries, bits):
    """(fused, over decompressed tokens) means over layers and query positions."""
    heads, d = pairs[0][0].shape[1], pairs[0][0].shape[3]
    store = kv.PackedStore(len(pairs), heads, d, key_bits=bits, value_bits=bits)
    seq = store.create()
    sums, count = [0.0, 0.0], 0
    for layer, (k, v) in enumerate(pairs):
        k, v = k[0], v[0]  # [heads, n, d]
        store.append(seq, layer, k.transpose(0, 1), v.transpose(0, 1))
        rough_k, rough_v = (x.transpose(0, 1) for x in store.read(seq, layer))
        for q in queries[layer]:
            exact = attention(q, k, v, d**-0.5)
            fused = store.attend(layer, [seq], q[None])[0][0].double()
            dense = attention(q, rough_k, rough_v, d**-0.5)
            for i, out in enumerate((fused, dense)):
                sums[i] += ((out - exact).norm() / exact.norm()).item()
            count += 1
    return [total / count for total in sums]


def ratios(bits, tokens):
    """Against float16: of sealed pages, and of all that a sequence of so many tokens
    of one layer with 8 KV heads of 128 holds in bfloat16."""
    store = kv.PackedStore(1, 8, 128, key_bits=bits, value_bits=bits, dtype=torch.bfloat16)
    seq = store.create()
    x = torch.randn(tokens, 8, 128, dtype=torch.bfloat16)
    store.append(seq, 0, x, x)
    stats = store.stats()
    return stats.sealed_ratio, stats.compression_ratio


@torch.inference_mode()
def queries_of(model, ids, count):
    """[layers][count] of [q_heads, d]: what the last positions ask, after RoPE."""
    from transformers.models.llama import modeling_llama  # pylint: disable=import-outside-toplevel
    taken = []

    def take(module, _args, out):
        taken.append(out[:, -count:].float().unflatten(-1, (-1, module.out_features // heads)))

    heads = model.config.num_attention_heads
    hooks = [layer.self_attn.q_proj.register_forward_hook(take) for layer in model.model.layers]
    model(ids)
    for hook in hooks:
        hook.remove()
    positions = torch.arange(ids.shape[1] - count, ids.shape[1])[None]
    cos, sin = model.model.rotary_emb(taken[0], positions)
    return [modeling_llama.apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=2)[0][0]
            for q in taken]


def main():
    parser = kv_bench.parser(__doc__)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=16)
    arguments = parser.parse_args()
    texts = kv_bench.load_texts(arguments.texts, arguments.model)
    model = kv_bench.load_model(arguments.model)
    pairs, queries = [], []
    for tokens in texts.values():
        ids, _ = kv_bench.windows(tokens, arguments.window, 1)
        pairs += kv_bench.keys_and_values(model, ids)
        queries += queries_of(model, ids, arguments.queries)
    errors, compression = {}, {}
    for kind in ("tq_mse", "tq_prod"):
        for bits in BITS:
            if kind == "tq_prod" and bits != int(bits):
                continue
            (k_mse, k_cos), (v_mse, v_cos) = vector_errors(pairs, bits, kind)
            fused, dense = attention_errors(pairs, queries, bits) if kind == "tq_mse" \
                else (math.nan, math.nan)
            errors[f"{kind}, {bits} bits"] = {
                "theory": theory(bits) if kind == "tq_mse" else math.nan,
                "k_mse": k_mse, "v_mse": v_mse, "k_cos": k_cos, "v_cos": v_cos,
                "fused": fused, "dense": dense}
    lengths = (1024, 4096, 8192, 32768)
    for bits in BITS:
        compression[bits] = [ratios(bits, n) for n in lengths]

    def number(value, digits):
        return "" if math.isnan(value) else f"{value:.{digits}f}"

    rows = [[name, number(e["theory"], 5), f"{e['k_mse']:.5f}", f"{e['v_mse']:.5f}",
             f"{e['k_cos']:.4f}", f"{e['v_cos']:.4f}", number(e["fused"], 4),
             number(e["dense"], 4), number(e["fused"] / e["dense"], 3)]
            for name, e in errors.items()]
    markdown = "# Reconstruction\n\n" + kv_bench.table(
        ["quantizer", "Lloyd-Max MSE", "MSE of K", "of V", "cosine of K", "of V",
         "attention error, fused", "decompressed", "ratio"], rows)
    markdown += "\n\n# Compression against float16, head_dim 128\n\n" + kv_bench.table(
        ["bits", "sealed pages", *(f"{n:,} tokens" for n in lengths)],
        [[bits, f"{values[0][0]:.2f}", *(f"{held:.2f}" for _, held in values)]
         for bits, values in compression.items()])
    kv_bench.save(arguments.out, "reconstruction",
                  {"about": kv_bench.about(model=arguments.model), "errors": errors,
                   "compression": compression}, markdown)
    figure, (axis,) = kv_bench.new_plot()
    mse = {name: e for name, e in errors.items() if name.startswith("tq_mse")}
    for key, label in (("theory", "Lloyd-Max"), ("k_mse", "keys"), ("v_mse", "values")):
        axis.plot(BITS, [e[key] for e in mse.values()], marker="o", label=label)
    axis.set_yscale("log")
    axis.set_xlabel("bits")
    axis.set_ylabel("MSE of a unit vector")
    axis.legend()
    kv_bench.save_plot(arguments.out, "reconstruction", figure)


if __name__ == "__main__":
    main()

"""Decode steps of a whole model on a GPU: packed cache against bf16 caches.

    cmake -B build-cuda -DQUASHDB_BUILD_CUDA=ON && cmake --build build-cuda --target quashkv
    QUASHKV_LIBRARY=build-cuda/kvcache/libquashkv.so PYTHONPATH=bindings/python \\
        python3 bench/gpu/generate.py --out out/

The model has the shape of Llama 3.1 8B and random weights; caches are filled with
random tokens. One step of each (a token per sequence, through transformers) is
captured in a CUDA graph; replays alternate, and medians are reported. The bf16
contenders are transformers' DynamicCache and StaticCache and a preallocated cache
that gives SDPA exactly the tokens it has, without a mask and with grouped heads, the
last two with SDPA's backends in turn; the fastest counts. DynamicCache copies all
tokens to append one.

--compile has a layer's work before and after attention compiled by torch.compile, for
all contenders: transformers' layer is some fifteen small kernels for each.
"""

import argparse
import json
import pathlib
import statistics

import torch
import torch.nn.functional as F
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.llama import modeling_llama

from quashdb.kv import QuashKVCache, QuashKVCacheConfig

BACKENDS = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)


def unmasked_attention(_module, query, key, value, _mask, scaling=None, **_kwargs):
    out = F.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


transformers.AttentionInterface.register("unmasked", unmasked_attention)
transformers.AttentionMaskInterface.register("unmasked", lambda *_args, **_kwargs: None)


def make_model(layers):
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        max_position_embeddings=131072, tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.LlamaForCausalLM(config).eval()
        torch.set_default_dtype(torch.float32)
    return model


class PreallocatedLayer(transformers.cache_utils.DynamicLayer):
    """A bf16 layer with room for the next token, which goes to a fixed place: what a
    cache costs that neither copies nor masks."""

    def __init__(self, keys, values):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states, value_states, *_args, **_kwargs):
        self.keys[:, :, -1:] = key_states
        self.values[:, :, -1:] = value_states
        return self.keys, self.values

    def get_seq_length(self):
        return self.keys.shape[2] - 1

    def get_mask_sizes(self, query_length):
        return self.keys.shape[2] - 1 + query_length, 0


def rotated(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def normed(x, weight, eps):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


@torch.compile(fullgraph=True, dynamic=False)
def before_attention(x, norm, eps, w_q, w_k, w_v, cos, sin):
    batch, n = x.shape[:2]
    h = normed(x, norm, eps)
    q, k, v = (F.linear(h, w).view(batch, n, -1, 128).transpose(1, 2) for w in (w_q, w_k, w_v))
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return rotated(q, cos, sin), rotated(k, cos, sin), v


@torch.compile(fullgraph=True, dynamic=False)
def after_attention(x, attended, w_o, norm, eps, w_gate, w_up, w_down):
    x = x + F.linear(attended.flatten(2), w_o)
    h = normed(x, norm, eps)
    return x + F.linear(F.silu(F.linear(h, w_gate)) * F.linear(h, w_up), w_down)


def compiled_layer(layer, hidden_states, attention_mask=None, past_key_values=None,
                   position_embeddings=None, **_kwargs):
    """LlamaDecoderLayer.forward() in two compiled parts."""
    attention, mlp = layer.self_attn, layer.mlp
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    q, k, v = before_attention(
        hidden_states, first.weight, first.variance_epsilon, attention.q_proj.weight,
        attention.k_proj.weight, attention.v_proj.weight, *position_embeddings)
    k, v = past_key_values.update(k, v, attention.layer_idx)
    attend = transformers.AttentionInterface()[attention.config._attn_implementation]
    attended, _ = attend(attention, q, k, v, attention_mask, dropout=0.0,
                         scaling=attention.scaling)
    return after_attention(
        hidden_states, attended, attention.o_proj.weight, second.weight,
        second.variance_epsilon, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)


def random_rows(batch, tokens):
    return [torch.randn(batch, tokens, 8, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            for _ in range(2)]


def preallocated(model, batch, tokens):
    cache = transformers.DynamicCache()
    cache.layers = [
        PreallocatedLayer(*(torch.randn(batch, 8, tokens, 128, device="cuda",
                                        dtype=torch.bfloat16) for _ in range(2)))
        for _ in range(model.config.num_hidden_layers)]
    return cache


def dynamic(model, batch, tokens):
    cache = transformers.DynamicCache(config=model.config)
    for layer in range(model.config.num_hidden_layers):
        cache.update(*(torch.randn(batch, 8, tokens - 1, 128, device="cuda", dtype=torch.bfloat16)
                       for _ in range(2)), layer)
    return cache


def static(model, batch, tokens):
    cache = transformers.StaticCache(config=model.config, max_cache_len=tokens)
    for layer in range(model.config.num_hidden_layers):
        cache.update(*random_rows(batch, tokens - 512), layer)  # replays fill the rest
    return cache


def packed(model, batch, tokens, bits):
    cache = QuashKVCache.from_model(model, QuashKVCacheConfig(key_bits=bits, value_bits=bits))
    cache.reserve(tokens + 4096)
    store = cache._batch  # filled below update(), which would need a forward pass
    rows = random_rows(batch, tokens)
    store.prepare(*rows)
    store.reserve(tokens + 4096)
    for layer in range(model.config.num_hidden_layers):
        store.append(layer, 0, *rows, None)
        store.lengths[layer] = tokens
    for layer in cache._kv_layers:
        layer.lazy_initialization(*rows)
    return cache


@torch.inference_mode()
def graph_of(model, cache, batch, position):
    """A captured step; its tokens go on being appended where caches grow."""
    ids = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
    positions = torch.full((batch, 1), position, dtype=torch.long, device="cuda")

    def step():
        return model(ids, past_key_values=cache, use_cache=True, position_ids=positions).logits

    for _ in range(2):
        logits = step()
    torch.cuda.synchronize()
    assert logits.isfinite().all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.inputs = ids, positions  # as long as the graph, which reads them
    return graph


def time_of(graph, replays=8):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / replays


def profile(graph):
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as trace:
        graph.replay()
        torch.cuda.synchronize()
    for event in sorted(trace.key_averages(), key=lambda e: -e.device_time_total)[:14]:
        print(f"{event.device_time_total:9.0f} us {event.count:5d} x {event.key[:90]}")


BF16 = {"preallocated": preallocated, "StaticCache": static, "DynamicCache": dynamic}


def compare(model, batch, tokens, all_bits, contenders, rounds):
    """{"batch", "tokens", "ms": of a step by name}, and the graphs by name."""
    graphs, kept, alone = {}, [], {}
    for name in contenders:
        model.set_attn_implementation("unmasked" if name == "preallocated" else "sdpa")
        cache = BF16[name](model, batch, tokens)
        if name == "DynamicCache":  # twice its memory in the graph, so not beside others
            graph = graph_of(model, cache, batch, tokens - 1)
            alone[name] = statistics.median(time_of(graph) for _ in range(rounds))
            del graph, cache
            torch.cuda.empty_cache()
            continue
        kept.append(cache)
        for backend in BACKENDS:
            try:
                with sdpa_kernel(backend):
                    graphs[f"{name}, {backend.name}"] = graph_of(model, cache, batch, tokens - 1)
            except RuntimeError as error:
                print(f"{name}, {backend.name}: {str(error).splitlines()[0]}")
    for bits in all_bits:
        cache = packed(model, batch, tokens, bits)
        kept.append(cache)
        graphs[f"{bits}-bit"] = graph_of(model, cache, batch, tokens - 1)
    times = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, graph in graphs.items():
            times[name].append(time_of(graph))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"batch": batch, "tokens": tokens, "ms": {**alone, **medians}}, graphs


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--shapes", default="1x64K,16x16K", help="batch x context")
    parser.add_argument("--bits", default="4,3,2")
    parser.add_argument("--contenders", default="DynamicCache,preallocated,StaticCache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--profile", action="store_true",
                        help="print the kernels of one step, bf16 and packed")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = make_model(arguments.layers)
    if arguments.compile:
        modeling_llama.LlamaDecoderLayer.forward = compiled_layer
    rows = []
    for shape in arguments.shapes.split(","):
        batch, kilo = (int(x.strip("K")) for x in shape.split("x"))
        row, graphs = compare(model, batch, 1024 * kilo,
                              [int(b) for b in arguments.bits.split(",")],
                              arguments.contenders.split(","), arguments.rounds)
        rows.append(row)
        best = min(ms for name, ms in row["ms"].items() if "bit" not in name)
        for name, ms in row["ms"].items():
            print(f"{shape:>8} {name:<36} {ms:8.3f} ms {1000 * batch / ms:9.1f} tokens/s "
                  f"{best / ms:5.2f} x")
        if arguments.profile:
            for name in (min((n for n in graphs if "bit" not in n), key=row["ms"].get),
                         f"{arguments.bits.split(',')[0]}-bit"):
                print(name)
                profile(graphs[name])
        del graphs
        torch.cuda.empty_cache()
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
             "transformers": transformers.__version__, "layers": arguments.layers,
             "compile": arguments.compile, "rows": rows}
    name = "generate_compile.json" if arguments.compile else "generate.json"
    (arguments.out / name).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

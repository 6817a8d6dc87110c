"""What the benchmarks of the KV cache share: models, texts, losses, reports.

Needs torch, transformers, matplotlib and quashdb.kv: the installed package, or
QUASHDB_LIBRARY and QUASHKV_LIBRARY naming the built libquashdb.so and
libquashkv.so, with which the package of this checkout is used.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import matplotlib  # pylint: disable=wrong-import-position

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # pylint: disable=wrong-import-position
import torch  # pylint: disable=wrong-import-position

import bench_data  # pylint: disable=wrong-import-position

bench_data.import_quashdb()
from quashdb import kv  # pylint: disable=wrong-import-position
from quashdb.kv.hf_cache import with_cache  # pylint: disable=wrong-import-position

PAGE = kv.PAGE_SIZE
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def parser(documentation, model=True):
    """Arguments that all scripts take: --out, and --model, --texts, --threads."""
    made = argparse.ArgumentParser(description=documentation,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    if model:
        made.add_argument("--model", required=True,
                          help="folder of a Hugging Face causal language model")
        made.add_argument("--texts", type=pathlib.Path, nargs="+", required=True,
                          help="JSON objects of names and lists of token ids, or text files")
        made.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    return made


def load_model(path, dtype=torch.float32):
    import transformers  # seconds; some scripts do without  # pylint: disable=import-outside-toplevel
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def load_tokenizer(path):
    """Of a model folder; also of one that has no more than tokenizer.json."""
    import transformers  # pylint: disable=import-outside-toplevel
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(pathlib.Path(path) / "tokenizer.json"))


def load_texts(paths, model_path):
    """{name: list of token ids} of JSON files and text files."""
    texts = {}
    for path in paths:
        if path.suffix == ".json":
            texts |= json.loads(path.read_text(encoding="utf-8"))
        else:
            tokenizer = load_tokenizer(model_path)
            texts[path.stem] = tokenizer.encode(path.read_text(encoding="utf-8"))
    return texts


def windows(tokens, length, most):
    """[count, length] whole windows of a text, and the tokens after the last."""
    count = len(tokens) // length
    if count == 0:
        sys.exit(f"Error: a text has {len(tokens)} tokens, fewer than a window of {length}")
    kept = min(count, most or count)
    return torch.tensor(tokens[:kept * length]).view(kept, length), tokens[count * length:]


def exact_cache(model):
    """The uncompressed cache of transformers."""
    from transformers import DynamicCache  # pylint: disable=import-outside-toplevel
    return DynamicCache(config=model.config)


def packed_cache(model, **options):
    return kv.QuashKVCache.from_model(model, kv.QuashKVCacheConfig(**options))


@torch.inference_mode()
def chunked_logprobs(model, ids, cache, chunk=PAGE):
    """Log-probabilities of every next token, by chunks: float32 [batch, n, vocab].

    Each chunk is one forward pass over the cache, as a prompt that arrives in
    pieces, or a generation: what it attends to is what the cache gives back.
    """
    for first in range(0, ids.shape[1], chunk):
        out = model(ids[:, first:first + chunk], **with_cache(cache), use_cache=True)
        yield first, out.logits.float().log_softmax(-1)


def token_losses(logprobs, first, ids):
    """Losses [batch, n] of the tokens after those of a chunk; the last token of
    the window has none, which drops its column."""
    targets = ids[:, first + 1:first + 1 + logprobs.shape[1]]
    return -logprobs[:, :targets.shape[1]].gather(2, targets[:, :, None])[:, :, 0]


@torch.inference_mode()
def keys_and_values(model, ids):
    """[(keys, values)] of each layer, float32 [batch, kv_heads, n, head_dim]."""
    cache = exact_cache(model)
    model.model(ids, **with_cache(cache), use_cache=True)
    return [(layer.keys.float(), layer.values.float()) for layer in cache.layers]


def about(**more):
    """What the numbers hold for."""
    machine = bench_data.machine()
    return {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "cpu": machine["cpu"], "cores": machine["cores"], "isa": kv.isa(),
            "quashkv": kv.__version__, "torch": torch.__version__,
            "load_average": round(os.getloadavg()[0], 2), **more}


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def save(out, name, result, markdown):
    """Writes NAME.json and NAME.md, and prints the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    facts = ", ".join(f"{key} {value}" for key, value in result["about"].items())
    text = f"{markdown}\n\n{facts}\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def save_plot(out, name, figure):
    out.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(out / f"{name}.png", dpi=120)
    plt.close(figure)


def new_plot(columns=1, width=6.0, height=4.0):
    figure, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
    for axis in axes[0]:
        axis.grid(True, alpha=0.3)
    return figure, axes[0]


def progress(text):
    print(text, file=sys.stderr, flush=True)

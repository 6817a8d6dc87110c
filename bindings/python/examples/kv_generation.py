"""Generation with a key-value cache of 4 bits a number, beside an uncompressed one.

    python3 bindings/python/examples/kv_generation.py
    python3 bindings/python/examples/kv_generation.py --model DIR --prompt "Once upon a time"

Without --model a small Llama with random weights is made on the spot: its text means
nothing, but tokens, memory and agreement are real. Needs torch and transformers
(pip install 'quashdb[kv]').
"""

import argparse
import time

import torch
import transformers
from transformers import DynamicCache

from quashdb.kv import QuashKVCache, QuashKVCacheConfig
from quashdb.kv.hf_cache import with_cache


def random_llama():
    """A Llama of 8 million parameters, the same in every run."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=8192,
        initializer_range=0.1, bos_token_id=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def generate(model, ids, tokens, bits=None):
    """(new tokens, bytes of the cache, seconds); bits None: uncompressed."""
    if bits is None:
        cache = DynamicCache(config=model.config)
    else:
        cache = QuashKVCache.from_model(model, QuashKVCacheConfig(key_bits=bits, value_bits=bits))
    begin = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **with_cache(cache),
            max_new_tokens=tokens,
            do_sample=False,
        )
    seconds = time.perf_counter() - begin
    if bits is None:
        held = sum(
            x.numel() * x.element_size() for one in cache.layers for x in (one.keys, one.values)
        )
    else:
        held = cache.total_bytes
    return out[0, ids.shape[1] :].tolist(), held, seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a causal language model; default: random")
    parser.add_argument("--prompt", help="text, with --model")
    parser.add_argument("--context", type=int, default=1024, help="random tokens without a model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bits", type=float, default=4, choices=[2, 2.5, 3, 3.5, 4])
    given = parser.parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    if given.model is None:
        model, tokenizer = random_llama(), None
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(2, model.config.vocab_size, (1, given.context), generator=generator)
    else:
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(given.model).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise SystemExit(f"Error: no model in '{given.model}': {first}") from None
        ids = tokenizer(given.prompt or "The", return_tensors="pt").input_ids
    exact, exact_bytes, exact_s = generate(model, ids, given.tokens)
    packed, packed_bytes, packed_s = generate(model, ids, given.tokens, given.bits)
    if tokenizer is not None:
        print(f"uncompressed: {tokenizer.decode(exact)}")
        print(f"{given.bits:g} bits: {tokenizer.decode(packed)}")
    same = next(
        (i for i, (a, b) in enumerate(zip(exact, packed, strict=False)) if a != b), len(exact)
    )
    print(f"{ids.shape[1]} tokens of prompt, {len(packed)} generated")
    print(f"cache: {exact_bytes:,} bytes uncompressed, {packed_bytes:,} at {given.bits:g} bits, "
          f"{exact_bytes / packed_bytes:.2f}x smaller")  # fmt: skip
    print(f"the first {same} tokens are the same")
    print(f"{exact_s:.2f} s uncompressed, {packed_s:.2f} s at {given.bits:g} bits")


if __name__ == "__main__":
    main()

"""A model of transformers on a GPU over the packed cache."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("quashdb.kv")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

# pylint: disable=wrong-import-position
from quashdb.kv import QuashKVCache, QuashKVCacheConfig, UnsupportedError, hf_attention
from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError
from quashdb.kv.hf_cache import with_cache

if lib.quash_kv_cuda_devices() == 0:
    pytest.skip("the QuashKV library has no CUDA", allow_module_level=True)

PACKED = QuashKVCacheConfig(uncompressed_tokens=0)
GIVEN = QuashKVCacheConfig(uncompressed_tokens=None)


@pytest.fixture(scope="module", name="model")
def make_model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048)
    return transformers.LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()


def logits_of(model, ids, cache, chunk, mask=None):
    parts = []
    with torch.inference_mode():
        for first in range(0, ids.shape[1], chunk):
            end = min(first + chunk, ids.shape[1])
            parts.append(model(
                ids[:, first:end], **with_cache(cache), use_cache=True,
                attention_mask=None if mask is None else mask[:, :end]).logits.float())
    return torch.cat(parts, 1)


@pytest.mark.parametrize("chunk", [400, 64, 1])
def test_logits_are_near_those_of_an_exact_cache(model, chunk):
    ids = torch.randint(256, (2, 400), generator=torch.Generator().manual_seed(1)).cuda()
    cache = QuashKVCache.from_model(model, PACKED)
    packed = logits_of(model, ids, cache, chunk)
    exact = logits_of(model, ids, transformers.DynamicCache(config=model.config), chunk)
    assert (packed - exact).norm() < 0.05 * exact.norm()
    assert cache.compression_stats()["pages"] == 2 * 2 * ((400 - 64 - 16) // 64)


@pytest.mark.parametrize("options, most", [
    ({"key_bits": 3.5, "value_bits": 3.5}, 0.07), ({"key_bits": 2.5, "value_bits": 2.5}, 0.15),
    ({"key_bits": 4, "value_bits": 2.5}, 0.12), ({"k_quantizer": "tq_prod"}, 0.07)])
@pytest.mark.parametrize("chunk", [200, 1])
def test_logits_of_formats_with_two_bands(model, options, most, chunk):
    ids = torch.randint(256, (2, 400), generator=torch.Generator().manual_seed(7)).cuda()
    config = QuashKVCacheConfig(reserve=16, uncompressed_tokens=0, **options)
    cache = QuashKVCache.from_model(model, config)
    packed = logits_of(model, ids, cache, chunk)
    exact = logits_of(model, ids, transformers.DynamicCache(config=model.config), chunk)
    assert (packed - exact).norm() < most * exact.norm()
    assert cache.compression_stats()["pages"] == 2 * 2 * ((400 - 64 - 16) // 64)


def test_logits_at_head_dim_256():
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=256, max_position_embeddings=2048)
    wide = transformers.LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    ids = torch.randint(256, (2, 400), generator=torch.Generator().manual_seed(8)).cuda()
    for chunk in (200, 1):
        packed = logits_of(wide, ids, QuashKVCache.from_model(wide, PACKED), chunk)
        exact = logits_of(wide, ids, transformers.DynamicCache(config=config), chunk)
        assert (packed - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_attend_to_stored_tokens_in_parts(model, batch, monkeypatch):
    """Parts of 128 tokens give what all stored tokens at once give."""
    ids = torch.randint(256, (batch, 900), generator=torch.Generator().manual_seed(5)).cuda()
    whole = logits_of(model, ids, QuashKVCache.from_model(model, PACKED), 150)
    monkeypatch.setattr(hf_attention, "PART_TOKENS", 128 * batch)
    parts = logits_of(model, ids, QuashKVCache.from_model(model, PACKED), 150)
    assert (parts - whole).norm() < 0.01 * whole.norm()


@pytest.mark.parametrize("kind, options", [
    ("Llama", {}),
    ("Mistral", {"sliding_window": 100}),
    ("Gemma2", {"sliding_window": 100, "attn_logit_softcapping": 5.0})])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_packed", [True, False])
def test_windows_softcap_and_float16(kind, options, dtype, is_packed):
    """One token, a few and many, with padding and without, near an exact cache."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=199, hidden_size=128, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=1024,
        pad_token_id=0, **options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to("cuda", dtype).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(1, 199, (2, 400), generator=torch.Generator().manual_seed(4)).cuda()
    mask = torch.ones_like(ids)
    mask[1, :40] = 0
    for padding, chunks in ((None, (100, 5, 1)), (mask, (100,))):
        for chunk in chunks:
            exact = logits_of(model, ids, transformers.DynamicCache(config=config), chunk, padding)
            cache = QuashKVCache.from_model(model, PACKED if is_packed else GIVEN)
            ours = logits_of(model, ids, cache, chunk, padding)
            seen = slice(None) if padding is None else mask.bool()
            bound = 0.1 if is_packed else 0.05
            assert (ours - exact)[seen].norm() < bound * exact[seen].norm()
            assert (cache.compression_stats()["pages"] > 0) == is_packed
            model.set_attn_implementation("eager")


def test_padding_after_the_first_chunk_is_refused(model):
    ids = torch.randint(256, (2, 60), generator=torch.Generator().manual_seed(6)).cuda()
    mask = torch.ones_like(ids)
    mask[1, :40] = 0
    with pytest.raises(UnsupportedError, match="padding"):
        logits_of(model, ids, QuashKVCache.from_model(model, PACKED), 20, mask)


def test_memory_of_chunks_is_bounded(model, monkeypatch):
    monkeypatch.setattr(hf_attention, "PART_TOKENS", 1024)
    peaks = []
    for stored in (4096, 16384):
        cache = QuashKVCache.from_model(model, PACKED)
        cache.reserve(stored + 256)
        ids = torch.zeros(1, 256, dtype=torch.long, device="cuda")
        for _ in range(stored // 256):
            logits_of(model, ids, cache, 256)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        query = torch.randn(1, 4, 256, 64, device="cuda", dtype=torch.bfloat16)
        rows = torch.randn(1, 2, 256, 64, device="cuda", dtype=torch.bfloat16)
        hf_attention._in_parts(cache._kv_layers[0], query, rows, rows, None)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("config", [PACKED, GIVEN])
def test_left_padding(model, config):
    ids = torch.randint(256, (2, 300), generator=torch.Generator().manual_seed(2)).cuda()
    mask = torch.ones_like(ids)
    mask[1, :90] = 0
    cache = QuashKVCache.from_model(model, config)
    with torch.inference_mode():
        model(ids[:, :280], **with_cache(cache), use_cache=True, attention_mask=mask[:, :280])
        assert cache._batch.tokens(280) == [280, 190]
        for step in range(280, 300):
            position = torch.tensor([[step], [step - 90]], device="cuda")
            packed = model(ids[:, step:step + 1], **with_cache(cache), use_cache=True,
                           attention_mask=mask[:, :step + 1], position_ids=position).logits
        alone = model(ids[1:, 90:], use_cache=False).logits[:, -1]
    assert (packed[1, -1].float() - alone[0].float()).norm() < 0.1 * alone.float().norm()


def test_generate_reorder_and_crop(model):
    ids = torch.randint(256, (1, 200), generator=torch.Generator().manual_seed(3)).cuda()
    cache = QuashKVCache.from_model(model, PACKED)
    text = model.generate(ids, **with_cache(cache), max_new_tokens=60, do_sample=False)
    assert text.shape == (1, 260) and cache.get_seq_length() == 259
    beams = model.generate(ids, **with_cache(QuashKVCache.from_model(model, PACKED)),
                           num_beams=3, max_new_tokens=20, do_sample=False)
    assert beams.shape[1] == 220
    before = cache[0][0][:, :, :249]
    cache.crop(-10)
    assert cache.get_seq_length() == 249 and torch.equal(cache[0][0], before)
    with pytest.raises(UnsupportedError, match="sealed"):
        cache.crop(-200)


@pytest.mark.parametrize("chunk", [100, 7, 1])
def test_few_tokens_stay_as_given_until_they_are_many(model, chunk):
    ids = torch.randint(256, (2, 400), generator=torch.Generator().manual_seed(7)).cuda()
    exact = logits_of(model, ids, transformers.DynamicCache(config=model.config), chunk)
    cache = QuashKVCache.from_model(model, QuashKVCacheConfig(uncompressed_tokens=2 * 300))
    few = logits_of(model, ids[:, :300], cache, chunk)
    assert (few - exact[:, :300]).norm() < 0.02 * exact[:, :300].norm()
    stats = cache.compression_stats()
    assert stats["pages"] == 0 and stats["tokens"] == 2 * 2 * 300
    assert stats["total_bytes"] == 2 * 2 * 300 * 2 * 2 * 64 * 2
    more = logits_of(model, ids[:, 300:], cache, chunk)
    assert (more - exact[:, 300:]).norm() < 0.05 * exact[:, 300:].norm()
    assert cache.compression_stats()["pages"] == 2 * 2 * ((400 - 64 - 16) // 64)
    # Keys of the first layer do not depend on attention.
    packed = QuashKVCache.from_model(model, PACKED)
    for part in (ids[:, :300], ids[:, 300:]):
        logits_of(model, part, packed, chunk)
    for ours, theirs in zip(cache[0], packed[0], strict=True):
        assert torch.equal(ours, theirs)


def test_given_tokens_are_cropped_copied_and_reserved(model, monkeypatch):
    ids = torch.randint(256, (1, 300), generator=torch.Generator().manual_seed(8)).cuda()
    cache = QuashKVCache.from_model(model, GIVEN)
    logits_of(model, ids, cache, 300)
    copied = copy.deepcopy(cache)
    cache.crop(-200)
    assert cache.get_seq_length() == 100 and copied.get_seq_length() == 300
    assert torch.equal(cache[1][0], copied[1][0][:, :, :100])
    cache.batch_repeat_interleave(3)
    assert torch.equal(cache[1][1], copied[1][1][:, :, :100].expand(3, -1, -1, -1))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(InvalidError, match="reserve"):
        logits_of(model, ids[:, :1], copied, 1)
    monkeypatch.undo()
    copied = copy.deepcopy(cache)
    copied.reserve(500)
    logits_of(model, ids[:, 100:].expand(3, -1), copied, 1)
    assert copied.compression_stats()["pages"] == 2 * 3 * ((300 - 64 - 16) // 64)
    beams = model.generate(ids, **with_cache(QuashKVCache.from_model(model)), num_beams=3,
                           max_new_tokens=20, do_sample=False)
    assert beams.shape[1] == 320


def test_other_dtypes_are_refused(model):
    cache = QuashKVCache(2, 64, device="cuda")
    x = torch.zeros(1, 2, 3, 64, device="cuda")
    with pytest.raises(UnsupportedError, match="bfloat16"):
        cache.update(x, x, 0)

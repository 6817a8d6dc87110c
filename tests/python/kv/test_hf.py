"""QuashKVCache under transformers: the text of generate(), with DynamicCache as
the reference."""

import copy
import gc

import pytest

kv = pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from quashdb.kv import QuashKVCache, QuashKVCacheConfig  # noqa: E402
from quashdb.kv.errors import UnsupportedError  # noqa: E402
from quashdb.kv.hf_cache import with_cache  # noqa: E402

EXACT = QuashKVCacheConfig(uncompressed_layers=(0, 1))


def prompt(batch, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 199, (batch, n), generator=generator)


def generate(model, ids, cache=None, new=12, **options):
    torch.manual_seed(11)
    options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, **options}
    options.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, **with_cache(cache), **options)


def padded(ids, lengths):
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, ids.shape[1] - length :] = 1
    return ids * mask, mask


class TestGenerate:
    @pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 130, 200])
    def test_greedy_uncompressed_equals_dynamic_cache(self, model, n):
        ids = prompt(2, n)
        expected = generate(model, ids)
        assert torch.equal(generate(model, ids, QuashKVCache.from_model(model, EXACT)), expected)

    def test_short_text_is_exact_at_any_bits(self, model):
        ids = prompt(3, 100)
        expected = generate(model, ids, new=30)
        cache = QuashKVCache.from_model(model, QuashKVCacheConfig(2, 2))
        assert torch.equal(generate(model, ids, cache, new=30), expected)
        assert cache.compression_stats()["pages"] == 0

    @pytest.mark.parametrize("options", [{"do_sample": True}, {"num_beams": 3}])
    @pytest.mark.parametrize("n", [7, 150])
    def test_sampling_and_beams_equal_dynamic_cache(self, model, options, n):
        ids = prompt(2, n)
        expected = generate(model, ids, **options)
        got = generate(model, ids, QuashKVCache.from_model(model, EXACT), **options)
        assert torch.equal(got, expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, make_model, dtype):
        model = make_model(initializer_range=0.02).to(dtype)
        ids = prompt(2, 90)
        with torch.no_grad():
            expected = model(torch.cat((ids, ids[:, :1]), 1)).logits[:, -1]
            cache = QuashKVCache.from_model(model, EXACT)
            model(ids, **with_cache(cache))
            got = model(ids[:, :1], **with_cache(cache)).logits[:, -1]
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.02)
        generate(model, ids, QuashKVCache.from_model(model, EXACT))

    @pytest.mark.parametrize("beams", [1, 2])
    @pytest.mark.parametrize("lengths", [(9, 4, 1), (130, 66, 3)])
    def test_left_padding(self, model, lengths, beams):
        ids, mask = padded(prompt(3, max(lengths)), lengths)
        options = {"attention_mask": mask, "num_beams": beams}
        expected = generate(model, ids, **options)
        cache = QuashKVCache.from_model(model, EXACT)
        assert torch.equal(generate(model, ids, cache, **options), expected)
        stored = 2 * beams * (sum(lengths) + 3 * 11)
        assert cache.compression_stats()["tokens"] == stored

    def test_assisted_decoding(self, model, make_model):
        assistant = make_model(num_hidden_layers=1, initializer_range=0.3)
        ids = prompt(1, 100)
        expected = generate(model, ids, new=40)
        for kind in (model, assistant):
            cache = QuashKVCache.from_model(model, EXACT)
            got = generate(model, ids, cache, new=40, assistant_model=kind)
            assert torch.equal(got, expected)
            assert cache.get_seq_length() >= 139

    def test_prompt_lookup(self, model):
        ids = prompt(1, 20).repeat(1, 5)
        expected = generate(model, ids, new=30)
        cache = QuashKVCache.from_model(model, EXACT)
        assert torch.equal(
            generate(model, ids, cache, new=30, prompt_lookup_num_tokens=4), expected
        )

    def test_cache_goes_on_over_turns(self, model):
        ids = prompt(1, 70)
        cache = QuashKVCache.from_model(model, EXACT)
        first = generate(model, ids, cache)
        longer = torch.cat((first, prompt(1, 70, seed=2)), 1)
        assert torch.equal(generate(model, longer, cache), generate(model, longer))

    def test_copies_share_and_go_their_own_ways(self, model):
        ids = prompt(1, 200)
        cache = QuashKVCache.from_model(model)
        with torch.no_grad():
            model(ids, **with_cache(cache))
        before = cache.compression_stats()
        copied = copy.deepcopy(cache)
        assert copied.compression_stats()["packed_bytes"] == before["packed_bytes"]
        longer = torch.cat((ids, prompt(1, 5, seed=3)), 1)
        first = generate(model, longer, copied)
        assert cache.get_seq_length() == 200
        assert torch.equal(generate(model, longer, cache), first)
        del copied
        gc.collect()
        assert cache.compression_stats()["sequences"] == 1

    def test_chunked_prefill(self, model):
        ids = prompt(2, 150)
        expected = generate(model, ids)
        cache = QuashKVCache.from_model(model, EXACT)
        assert torch.equal(generate(model, ids, cache, prefill_chunk_size=40), expected)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("mistral", {"sliding_window": 48}),
            ("gemma2", {"sliding_window": 48, "attn_logit_softcapping": 5.0}),
            ("gpt_oss", {"sliding_window": 48, "num_local_experts": 2, "num_experts_per_tok": 1}),
        ],
    )
    def test_windows_softcap_and_sinks(self, make_model, kind, options):
        model = make_model(kind, **options)
        model.set_attn_implementation("eager")
        ids, mask = padded(prompt(2, 100), (100, 30))
        expected = generate(model, ids, attention_mask=mask)
        cache = QuashKVCache.from_model(model, EXACT)
        assert torch.equal(generate(model, ids, cache, attention_mask=mask), expected)
        assert cache.get_seq_length() == 111

    def test_other_caches_go_on_in_the_model(self, model):
        ids, mask = padded(prompt(2, 40), (40, 12))
        expected = generate(model, ids, attention_mask=mask)
        QuashKVCache.from_model(model)
        assert model.config._attn_implementation == "quash"
        assert torch.equal(generate(model, ids, attention_mask=mask), expected)

    def test_constructed_cache_works_with_any_attention(self, model):
        ids, mask = padded(prompt(2, 100), (100, 30))
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            expected = generate(model, ids, attention_mask=mask)
            cache = QuashKVCache(2, 64, EXACT)
            assert torch.equal(generate(model, ids, cache, attention_mask=mask), expected)


class TestCompression:
    def logits(self, model, ids, config, split=None):
        """Of the tokens from `split` on, one at a time."""
        cache = QuashKVCache.from_model(model, config)
        split = ids.shape[1] - 40 if split is None else split
        with torch.no_grad():
            model(ids[:, :split], **with_cache(cache))
            steps = [
                model(ids[:, i : i + 1], **with_cache(cache)).logits
                for i in range(split, ids.shape[1])
            ]
        return torch.cat(steps, 1), cache

    def test_logits_are_close_and_closer_with_more_bits(self, make_model):
        model = make_model(initializer_range=0.05)
        ids = prompt(2, 400)
        with torch.no_grad():
            expected = model(ids).logits[:, -40:]
        errors = []
        for bits in (2, 3, 4):
            got, cache = self.logits(model, ids, QuashKVCacheConfig(bits, bits))
            assert cache.compression_stats()["pages"] > 0
            errors.append(float((got - expected).norm() / expected.norm()))
        assert errors[0] > errors[1] > errors[2] > 0
        assert errors[2] < 0.03

    def test_memory_is_packed_pages_and_open_tokens(self, model):
        ids = prompt(1, 64 * 6 + 10)
        _, cache = self.logits(model, ids, QuashKVCacheConfig(4, 4))
        stats = cache.compression_stats()
        tokens = 64 * 6 + 10
        token_bytes = 2 * 2 * 64 * 4  # keys and values, 2 heads, float32
        # All layers: one sink page, open tokens (10 + a page: reserve 16), 4 packed.
        assert stats["pages"] == 2 * 4
        assert stats["open_bytes"] >= 2 * (64 + 74) * token_bytes
        assert stats["open_bytes"] <= 2 * (64 + 64 + 80) * token_bytes
        assert stats["packed_bytes"] == stats["pages"] * stats["page_bytes"]
        assert stats["total_bytes"] < 2 * tokens * token_bytes / 2
        # Nothing in Python holds the history.
        gc.collect()
        alive = [
            thing.shape
            for thing in gc.get_objects()
            if type(thing) is torch.Tensor and thing.ndim == 4 and thing.shape[2] > 64
        ]
        assert alive == []

    def test_decoding_reads_packed_codes(self, model, monkeypatch):
        calls = []
        attend = kv.PackedStore.attend
        monkeypatch.setattr(
            kv.PackedStore,
            "attend",
            lambda store, layer, *args, **options: (
                calls.append(layer) or attend(store, layer, *args, **options)
            ),
        )
        monkeypatch.setattr(kv.PackedStore, "read", None)
        generate(model, prompt(2, 200), QuashKVCache.from_model(model), new=5)
        assert calls == [0, 1] * 4

    def test_update_returns_new_tokens_alone(self, model):
        cache = QuashKVCache.from_model(model)
        with torch.no_grad():
            model(prompt(1, 100), **with_cache(cache))
        k = torch.randn(1, 2, 3, 64)
        keys, values = cache.update(k, k + 1, 0)
        assert keys.shape == values.shape == (1, 2, 3, 64)
        assert cache.get_seq_length() == 103 and cache.get_seq_length(1) == 100
        with pytest.raises(RuntimeError, match="from_model"):
            cache.update(k, k, 0)


class TestCache:
    def filled(self, model, n=150, batch=2, config=EXACT):
        cache = QuashKVCache.from_model(model, config)
        with torch.no_grad():
            model(prompt(batch, n), **with_cache(cache))
        return cache

    def test_iteration_gives_what_was_stored(self, model):
        dynamic = transformers.DynamicCache(config=model.config)
        ids, mask = padded(prompt(2, 100), (100, 30))
        cache = QuashKVCache.from_model(model, EXACT)
        with torch.no_grad():
            model(ids, attention_mask=mask, **with_cache(dynamic))
            model(ids, attention_mask=mask, **with_cache(cache))
        pairs = list(zip(cache, dynamic, strict=True))
        assert len(pairs) == len(cache) == 2
        keep = mask[:, None, :, None].bool()
        for (k, v, _), (expected_k, expected_v, _) in pairs:
            torch.testing.assert_close(k, expected_k * keep)
            torch.testing.assert_close(v, expected_v * keep)

    @pytest.mark.parametrize("config", [EXACT, QuashKVCacheConfig(reserve=64)])
    def test_crop_takes_back(self, model, config):
        ids = prompt(2, 150)
        cache = self.filled(model, 150, 2, config)
        step = prompt(2, 20, seed=5)
        with torch.no_grad():
            expected = model(ids[:, :1], **with_cache(copy.deepcopy(cache))).logits
            model(step, **with_cache(cache))
            assert cache.get_seq_length() == 170
            cache.crop(-20)
            assert cache.get_seq_length() == 150
            got = model(ids[:, :1], **with_cache(cache)).logits
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        cache.crop(0)
        assert cache.get_seq_length() == 151
        cache.crop(-1000)
        assert cache.get_seq_length() == 0
        with pytest.raises(ValueError, match="negative"):
            cache.crop(3)

    def test_crop_counts_padding(self, model):
        ids, mask = padded(prompt(2, 40), (40, 5))
        cache = QuashKVCache.from_model(model, EXACT)
        with torch.no_grad():
            model(ids, attention_mask=mask, **with_cache(cache))
        cache.crop(-36)
        assert cache.compression_stats()["tokens"] == 2 * 4
        cache.crop(-4)
        assert cache.compression_stats()["tokens"] == 0

    @pytest.mark.parametrize("order", [[1, 0, 2], [0, 0, 0], [2, 2, 1], [2, 0, 2, 1]])
    def test_rows_are_reordered(self, model, order):
        cache = self.filled(model, 150, 3)
        expected = [(k[order], v[order]) for k, v, _ in cache]
        cache.reorder_cache(torch.tensor(order))
        for (k, v, _), (expected_k, expected_v) in zip(cache, expected, strict=True):
            assert torch.equal(k, expected_k) and torch.equal(v, expected_v)
        assert cache.compression_stats()["sequences"] == len(order) == cache.batch_size

    def test_reordered_rows_share_pages(self, model):
        cache = self.filled(model, 300, 3, QuashKVCacheConfig())
        one = cache.compression_stats()["pages"] // 3
        cache.reorder_cache(torch.tensor([1, 1, 1]))
        assert cache.compression_stats()["pages"] == one
        cache.batch_repeat_interleave(2)
        assert cache.batch_size == 6 and cache.compression_stats()["pages"] == one
        cache.batch_select_indices(torch.tensor([True, False, False, True, False, False]))
        assert cache.batch_size == 2

    def test_reset_takes_another_batch(self, model):
        cache = self.filled(model)
        cache.reset()
        assert cache.get_seq_length() == 0 and cache.total_bytes == 0
        assert list(cache) == []
        ids = prompt(3, 20)
        assert torch.equal(generate(model, ids, cache), generate(model, ids))

    def test_reset_takes_another_dtype_and_head_dim(self):
        cache = QuashKVCache(1, None, QuashKVCacheConfig(uncompressed_layers=(0,)))
        for dtype, dim in ((torch.bfloat16, 64), (torch.float32, 64), (torch.float32, 128)):
            k = torch.randn(1, 2, 5, dim, dtype=dtype)
            cache.update(k, k, 0)
            assert torch.equal(cache[0][0], k)
            cache.reset()

    def test_layers_by_index(self, model):
        cache = self.filled(model)
        assert torch.equal(cache[-1][0], cache[1][0]) and not torch.equal(cache[-1][0], cache[0][0])
        with pytest.raises(IndexError):
            cache[2]
        with pytest.raises(IndexError, match="layer 0 has no tokens"):
            QuashKVCache.from_model(model)[0]

    def test_heads_of_several_sizes_are_refused(self):
        cache = QuashKVCache(2)
        k, other = torch.randn(1, 2, 3, 64), torch.randn(1, 2, 3, 128)
        cache.update(k, k, 0)
        with pytest.raises(UnsupportedError, match=r"head_dim 128.* 64"):
            cache.update(other, other, 1)

    def test_a_batch_keeps_a_row(self, model):
        cache = self.filled(model)
        with pytest.raises(ValueError, match="reset"):
            cache.batch_repeat_interleave(0)
        with pytest.raises(ValueError, match="reset"):
            cache.batch_select_indices(torch.tensor([], dtype=torch.long))
        assert cache.batch_size == 2

    def test_budget(self, model):
        cache = QuashKVCache.from_model(model, QuashKVCacheConfig(memory_budget=100_000))
        with pytest.raises(MemoryError), torch.no_grad():
            model(prompt(2, 300), **with_cache(cache))
        assert cache.get_seq_length() == cache.get_seq_length(1) == cache.total_bytes == 0

    @pytest.mark.parametrize("is_bound", [True, False])
    def test_a_step_that_failed_can_be_made_again(self, model, monkeypatch, is_bound):
        ids, step = prompt(2, 40), prompt(2, 3, seed=4)
        caches = [
            QuashKVCache.from_model(model, EXACT) if is_bound else QuashKVCache(2, 64, EXACT)
            for _ in range(2)
        ]
        model.set_attn_implementation("quash" if is_bound else "sdpa")
        with torch.no_grad():
            for cache in caches:
                model(ids, **with_cache(cache))
            expected = model(step, **with_cache(caches[0])).logits
            append, calls = kv.PackedStore.append, []

            def fails(store, *args):
                calls.append(args)
                if len(calls) == 4:  # the second row of the second layer
                    raise kv.BudgetError("full")
                append(store, *args)

            monkeypatch.setattr(kv.PackedStore, "append", fails)
            with pytest.raises(kv.BudgetError):
                model(step, **with_cache(caches[1]))
            monkeypatch.undo()
            assert caches[1].compression_stats()["tokens"] == 2 * 2 * 40
            assert caches[1].get_seq_length() == caches[1].get_seq_length(1) == 40
            assert torch.equal(model(step, **with_cache(caches[1])).logits, expected)

    def test_bad_arguments(self, model):
        for wrong in (
            {"key_bits": 5}, {"value_bits": 2.25}, {"k_quantizer": "pq"}, {"seed": -1},
            {"reserve": 5000}, {"uncompressed_layers": (2,)}, {"k_outliers": (1, 2)},
        ):  # fmt: skip
            with pytest.raises(ValueError):
                QuashKVCache(2, 64, QuashKVCacheConfig(**wrong))
        with pytest.raises(NotImplementedError):
            QuashKVCache(2, 64, device="meta")
        cache = self.filled(model)
        with pytest.raises(ValueError, match="reset"), torch.no_grad():
            model(prompt(5, 1), **with_cache(cache))

    def test_masks_it_cannot_honour_are_refused(self, model):
        cache = self.filled(model, 10, 1)
        mask = torch.ones(1, 1, 1, 11, dtype=torch.bool)
        mask[..., 3] = False
        for wrong in (mask, mask.expand(1, 4, 1, 11)):
            with pytest.raises(UnsupportedError, match="attention_mask"), torch.no_grad():
                model(prompt(1, 1), attention_mask=wrong, **with_cache(cache))
            assert cache.get_seq_length() == 10 and cache.compression_stats()["tokens"] == 2 * 10
        with torch.no_grad():
            model(prompt(1, 1), **with_cache(cache))

    def test_models_it_cannot_serve_are_refused(self):
        config = transformers.T5Config(
            vocab_size=50, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2
        )
        with pytest.raises(UnsupportedError, match="encoder-decoder"):
            QuashKVCache.from_model(transformers.T5ForConditionalGeneration(config))

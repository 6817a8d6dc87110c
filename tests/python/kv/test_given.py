"""A GPU cache's tokens as given, while they are few: its logic on the CPU, with a store
that packs nothing in place of the GPU's, and models that an exact cache must agree with."""

import copy

import pytest

kv = pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

from quashdb.kv import QuashKVCache, QuashKVCacheConfig, _cuda, hf_attention, hf_cache  # noqa: E402
from quashdb.kv._given import GivenTokens  # noqa: E402
from quashdb.kv.errors import InvalidError  # noqa: E402
from quashdb.kv.hf_cache import with_cache  # noqa: E402


class Layer:
    """CudaLayer's interface; all its tokens are open ones."""

    def __init__(self, store, num_seqs):
        shape = (num_seqs, store.num_kv_heads, 0, store.head_dim)
        self.keys = self.values = torch.zeros(shape, dtype=store.dtype)
        self.num_pages = torch.zeros(num_seqs, dtype=torch.int32)
        self.open_tokens = torch.zeros(num_seqs, dtype=torch.int32)
        self.max_pages = 0

    def reserve(self, pages):
        self.max_pages = max(self.max_pages, pages)

    def select(self, rows):
        chosen = copy.copy(self)
        for name in ("keys", "values", "num_pages", "open_tokens"):
            setattr(chosen, name, getattr(self, name)[rows])
        return chosen


class Store:
    """CudaStore's interface."""

    page_bytes = 0

    def __init__(self, num_kv_heads, head_dim, config, dtype, device):
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.config, self.dtype, self.device = config, dtype, device

    def append(self, layer, keys, values, begins=None):
        layer.keys = torch.cat((layer.keys, keys), 2)
        layer.values = torch.cat((layer.values, values), 2)
        layer.open_tokens = layer.open_tokens + keys.shape[2]
        if begins is not None:
            layer.open_tokens = layer.open_tokens - begins

    def read(self, layer, positions, dtype, begins=None, first=0):
        rows = slice(first, first + positions)
        return layer.keys[:, :, rows].to(dtype), layer.values[:, :, rows].to(dtype)

    def attend(self, layer, queries, scale=None, return_lse=False, *, window=0, softcap=0.0):
        group, length = queries.shape[2] // self.num_kv_heads, layer.keys.shape[2]
        keys, values = (
            rows.float().repeat_interleave(group, 1) for rows in (layer.keys, layer.values)
        )
        scores = torch.einsum("bqhd,bhtd->bhqt", queries.float(), keys)
        scores *= scale or self.head_dim**-0.5
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        seen = torch.ones(scores.shape[2:], dtype=torch.bool).tril(length - queries.shape[1])
        if window:
            seen = seen.triu(length - queries.shape[1] + 1 - window)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        return torch.einsum("bhqt,bhtd->bqhd", weights, values).to(queries.dtype), None


@pytest.fixture(autouse=True)
def gpu_logic_on_the_cpu(monkeypatch):
    monkeypatch.setattr(_cuda.lib, "quash_kv_cuda_devices", lambda: 1)
    monkeypatch.setattr(_cuda, "CudaStore", Store)
    monkeypatch.setattr(_cuda, "CudaLayer", Layer)
    monkeypatch.setattr(
        hf_cache,
        "_batch_on",
        lambda device, num_layers, head_dim, config: _cuda.CudaBatch(
            num_layers, head_dim, config, torch.device("cpu")
        ),
    )


def prompt(batch, n, seed=0):
    return torch.randint(2, 199, (batch, n), generator=torch.Generator().manual_seed(seed))


def logits(model, ids, cache, chunk, mask=None):
    parts = []
    with torch.inference_mode():
        for first in range(0, ids.shape[1], chunk):
            end = min(first + chunk, ids.shape[1])
            seen = None if mask is None else mask[:, :end]
            parts.append(
                model(ids[:, first:end], **with_cache(cache), attention_mask=seen).logits
            )
    return torch.cat(parts, 1).float()


def cache_of(model, tokens=None):
    return QuashKVCache.from_model(model, QuashKVCacheConfig(uncompressed_tokens=tokens))


def is_given(cache):
    states = {cache._batch.given(layer) is not None for layer in range(cache._batch.num_layers)}
    assert len(states) == 1
    return states.pop()


KINDS = [
    ("llama", {}),
    ("mistral", {"sliding_window": 20}),
    ("gemma2", {"sliding_window": 20, "attn_logit_softcapping": 5.0}),
]


class TestModels:
    @pytest.mark.parametrize("kind, options", KINDS)
    @pytest.mark.parametrize("chunk", [1, 5, 40])
    def test_few_tokens(self, make_model, kind, options, chunk):
        model, ids = make_model(kind, **options).bfloat16(), prompt(2, 80)
        model.set_attn_implementation("eager")
        exact = logits(model, ids, transformers.DynamicCache(config=model.config), chunk)
        cache = cache_of(model)
        ours = logits(model, ids, cache, chunk)
        assert is_given(cache)
        assert (ours - exact).norm() < 0.05 * exact.norm()

    @pytest.mark.parametrize("kind, options", KINDS)
    @pytest.mark.parametrize("chunk, positions", [(1, 50), (5, 50), (5, 52), (8, 79)])
    def test_tokens_that_become_many(self, make_model, kind, options, chunk, positions):
        model, ids = make_model(kind, **options).bfloat16(), prompt(2, 80)
        model.set_attn_implementation("eager")
        exact = logits(model, ids, transformers.DynamicCache(config=model.config), chunk)
        cache = cache_of(model, 2 * positions + 1)
        fits = positions // chunk * chunk
        first = logits(model, ids[:, :fits], cache, chunk)
        assert is_given(cache)
        ours = torch.cat((first, logits(model, ids[:, fits:], cache, chunk)), 1)
        assert not is_given(cache)
        assert (ours - exact).norm() < 0.05 * exact.norm()
        assert cache._batch.layers[0].keys.shape[2] == 80

    @pytest.mark.parametrize("kind, options", KINDS)
    def test_padding(self, make_model, kind, options):
        model, ids = make_model(kind, **options).bfloat16(), prompt(2, 60)
        mask = torch.ones_like(ids)
        mask[1, :9] = 0
        model.set_attn_implementation("eager")
        exact = logits(model, ids, transformers.DynamicCache(config=model.config), 30, mask)
        cache = cache_of(model)
        ours = logits(model, ids, cache, 30, mask)
        assert is_given(cache)
        assert (ours - exact)[mask.bool()].norm() < 0.05 * exact[mask.bool()].norm()
        norms = cache[0][0][1].norm(dim=-1)
        assert not norms[:, :9].any() and norms[:, 9:].all()
        assert cache.compression_stats()["tokens"] == 2 * (60 + 51)


class TestCache:
    def test_stats_count_them_as_open(self, make_model):
        model = make_model().bfloat16()
        cache = cache_of(model)
        logits(model, prompt(3, 40), cache, 40)
        stats = cache.compression_stats()
        assert stats["tokens"] == 2 * 3 * 40 and stats["pages"] == 0
        assert stats["open_bytes"] == stats["total_bytes"] == 2 * 3 * 40 * 2 * 2 * 64 * 2
        assert stats["compression_ratio"] == 1

    def test_none_if_told_so(self, make_model):
        model = make_model().bfloat16()
        cache = cache_of(model, 0)
        logits(model, prompt(1, 3), cache, 1)
        assert not is_given(cache)
        with pytest.raises(InvalidError, match="uncompressed_tokens is -1"):
            cache_of(model, -1)

    def test_none_is_a_number_of_numbers(self, make_model, monkeypatch):
        monkeypatch.setattr(_cuda, "GIVEN_NUMBERS", 2 * 64 * 60)  # 30 positions of 2 sequences
        model = make_model().bfloat16()
        cache = cache_of(model)
        logits(model, prompt(2, 30), cache, 30)
        assert is_given(cache)
        logits(model, prompt(2, 1), cache, 1)
        assert not is_given(cache)

    def test_crop_copy_and_reorder(self, make_model):
        model = make_model().bfloat16()
        cache = cache_of(model, 500)
        logits(model, prompt(2, 90), cache, 90)
        copied = copy.deepcopy(cache)
        cache.crop(-50)
        assert cache.get_seq_length() == 40 and copied.get_seq_length() == 90
        assert torch.equal(cache[1][0], copied[1][0][:, :, :40])
        logits(model, prompt(2, 3, seed=1), cache, 1)  # leaves the copy as it was
        assert copied[1][0].shape[2] == 90
        copied.batch_select_indices(torch.tensor([1, 0, 1, 1, 0, 0]))  # 540 tokens
        logits(model, prompt(6, 1), copied, 1)
        assert not is_given(copied) and copied[0][0].shape == (6, 2, 91, 64)
        assert torch.equal(copied[0][0][0, :, :90], copied[0][0][2, :, :90])
        cache.reset()
        logits(model, prompt(4, 5), cache, 5)
        assert is_given(cache)

    def test_reserve_packs(self, make_model):
        model = make_model().bfloat16()
        cache = cache_of(model)
        logits(model, prompt(2, 30), cache, 30)
        before = cache[0]
        cache.reserve(200)
        assert not is_given(cache) and cache._batch.layers[0].max_pages == 4
        for ours, theirs in zip(cache[0], before, strict=True):
            assert torch.equal(ours, theirs)
        cache.reset()
        logits(model, prompt(2, 30), cache, 30)
        assert not is_given(cache)

    def test_capturing_is_refused(self, make_model, monkeypatch):
        model = make_model().bfloat16()
        cache = cache_of(model)
        logits(model, prompt(1, 30), cache, 30)
        monkeypatch.setattr(cache._batch, "device", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(InvalidError, match=r"reserve\(\) before a CUDA graph"):
            cache._batch.make_room(0, 1)


class TestGivenTokens:
    @pytest.mark.parametrize("pieces", [(1,) * 300, (255, 1, 1, 43), (600,), (17, 500, 83)])
    def test_buffers_grow(self, pieces):
        keys, values = torch.randn(2, 3, 2, sum(pieces), 8).unbind(0)
        tokens, at = GivenTokens(600), 0
        for n in pieces:
            assert tokens.fits(n)
            tokens.append(keys[:, :, at : at + n], values[:, :, at : at + n])
            at += n
        assert len(tokens) == at and not tokens.fits(601 - at)
        for ours, theirs in zip(tokens.tokens(), (keys, values), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.untyped_storage().nbytes() <= 3 * 2 * 600 * 8 * 4

    def test_any_mode_may_follow_another(self):
        tokens, x = GivenTokens(600), torch.ones(1, 1, 2, 4)
        with torch.inference_mode():
            tokens.append(x, x)
        tokens.append(x, x)
        chosen = tokens.select(torch.tensor([0, 0]))
        chosen.append(x.expand(2, -1, -1, -1), x.expand(2, -1, -1, -1))
        assert len(tokens) == 4 and chosen.tokens()[0].all()

    def test_cropped_places_are_written_anew(self):
        tokens = GivenTokens(10)
        x = torch.arange(10.0).reshape(1, 1, 10, 1)
        tokens.append(x, x)
        tokens.crop(4)
        tokens.append(-x[:, :, :2], x[:, :, :2])
        assert tokens.tokens()[0].flatten().tolist() == [0, 1, 2, 3, 0, -1]


class TestMask:
    @pytest.mark.parametrize("n, positions", [(1, 1), (1, 9), (4, 9), (9, 9)])
    @pytest.mark.parametrize("window", [None, 1, 3, 50])
    @pytest.mark.parametrize("begins", [None, [0, 3]])
    def test_is_causal(self, n, positions, window, begins):
        begins = None if begins is None else torch.tensor(begins)
        device = torch.device("cpu")
        mask = hf_attention._causal_mask(None, n, positions, begins, window, device)
        if mask is None:
            mask = torch.ones(1, 1, n, positions, dtype=torch.bool)
        for row in range(mask.shape[0]):
            for query in range(n):
                at = positions - n + query
                least = max(at - (window or positions) + 1, 0 if begins is None else begins[row])
                expected = [least <= token <= at for token in range(positions)]
                assert mask[row, 0, query].tolist() == expected

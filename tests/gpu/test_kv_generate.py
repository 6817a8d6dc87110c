"""A model of transformers on a GPU over the packed cache."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("quashdb.kv")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

# pylint: disable=wrong-import-position
from quashdb.kv import QuashKVCache, QuashKVCacheConfig, UnsupportedError
from quashdb.kv._ffi import lib

if lib.quash_kv_cuda_devices() == 0:
    pytest.skip("the QuashKV library has no CUDA", allow_module_level=True)


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
                ids[:, first:end], past_key_values=cache, use_cache=True,
                attention_mask=None if mask is None else mask[:, :end]).logits.float())
    return torch.cat(parts, 1)


@pytest.mark.parametrize("chunk", [400, 64, 1])
def test_logits_are_near_those_of_an_exact_cache(model, chunk):
    ids = torch.randint(256, (2, 400), generator=torch.Generator().manual_seed(1)).cuda()
    cache = QuashKVCache.from_model(model, QuashKVCacheConfig())
    packed = logits_of(model, ids, cache, chunk)
    exact = logits_of(model, ids, transformers.DynamicCache(config=model.config), chunk)
    assert (packed - exact).norm() < 0.05 * exact.norm()
    assert cache.compression_stats()["pages"] == 2 * 2 * ((400 - 64 - 16) // 64)


def test_left_padding(model):
    ids = torch.randint(256, (2, 300), generator=torch.Generator().manual_seed(2)).cuda()
    mask = torch.ones_like(ids)
    mask[1, :90] = 0
    cache = QuashKVCache.from_model(model)
    with torch.inference_mode():
        model(ids[:, :280], past_key_values=cache, use_cache=True, attention_mask=mask[:, :280])
        assert cache._batch.tokens(280) == [280, 190]
        for step in range(280, 300):
            position = torch.tensor([[step], [step - 90]], device="cuda")
            packed = model(ids[:, step:step + 1], past_key_values=cache, use_cache=True,
                           attention_mask=mask[:, :step + 1], position_ids=position).logits
        alone = model(ids[1:, 90:], use_cache=False).logits[:, -1]
    assert (packed[1, -1].float() - alone[0].float()).norm() < 0.1 * alone.float().norm()


def test_generate_reorder_and_crop(model):
    ids = torch.randint(256, (1, 200), generator=torch.Generator().manual_seed(3)).cuda()
    cache = QuashKVCache.from_model(model)
    text = model.generate(ids, past_key_values=cache, max_new_tokens=60, do_sample=False)
    assert text.shape == (1, 260) and cache.get_seq_length() == 259
    beams = model.generate(ids, past_key_values=QuashKVCache.from_model(model), num_beams=3,
                           max_new_tokens=20, do_sample=False)
    assert beams.shape[1] == 220
    before = cache[0][0][:, :, :249]
    cache.crop(-10)
    assert cache.get_seq_length() == 249 and torch.equal(cache[0][0], before)
    with pytest.raises(UnsupportedError, match="sealed"):
        cache.crop(-200)


def test_other_dtypes_are_refused(model):
    cache = QuashKVCache(2, 64, device="cuda")
    x = torch.zeros(1, 2, 3, 64, device="cuda")
    with pytest.raises(UnsupportedError, match="bfloat16"):
        cache.update(x, x, 0)

"""The vLLM backend under vLLM's own classes, and the plugin without vLLM."""

import importlib.util
import types

import pytest

kv = pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
import torch  # noqa: E402

from quashdb.kv import vllm_plugin  # noqa: E402
from quashdb.kv.errors import UnsupportedError  # noqa: E402

has_vllm = importlib.util.find_spec("vllm") is not None


class TestPlugin:
    def test_does_nothing_unless_asked(self, monkeypatch):
        monkeypatch.delenv(vllm_plugin.VARIABLE, raising=False)
        assert vllm_plugin.bits() is None
        vllm_plugin.register()

    def test_bits(self, monkeypatch):
        for text, expected in (("4", (4, 4)), ("3.5, 2", (3.5, 2)), ("0", None)):
            monkeypatch.setenv(vllm_plugin.VARIABLE, text)
            assert vllm_plugin.bits() == expected
        for text in ("yes", "4,3,2", "4,"):
            monkeypatch.setenv(vllm_plugin.VARIABLE, text)
            with pytest.raises(ValueError, match="expected bits"):
                vllm_plugin.bits()

    @pytest.mark.skipif(has_vllm, reason="vllm is installed")
    def test_says_that_vllm_is_missing(self, monkeypatch):
        monkeypatch.setenv(vllm_plugin.VARIABLE, "4")
        with pytest.raises(ImportError, match="Install vllm"):
            vllm_plugin.register()


def attention(q, k, v, window):
    n, m = len(q), len(k)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,nhd->hqn", q, k) * 0.2
    at, token = torch.arange(m - n, m)[:, None], torch.arange(m)
    hidden = (token > at) | (token <= at - (window or m))
    return torch.einsum("hqn,nhd->qhd", scores.masked_fill(hidden, -1e30).softmax(-1), v)


@pytest.mark.skipif(not has_vllm, reason="needs vllm 0.33")
class TestBackend:
    LAYERS = ("model.layers.0.attn", "model.layers.1.attn")

    def builder(self, prefix_caching=False, window_spec=False):
        from vllm.v1 import kv_cache_interface as interface

        from quashdb.kv.vllm_backend import QuashAttentionBackend

        sizes = {"block_size": 16, "num_kv_heads": 2, "head_size": 32, "dtype": torch.float32}
        spec = interface.FullAttentionSpec(**sizes)
        if window_spec:
            spec = interface.SlidingWindowSpec(**sizes, sliding_window=8)
        config = types.SimpleNamespace(
            cache_config=types.SimpleNamespace(enable_prefix_caching=prefix_caching)
        )
        make = QuashAttentionBackend.get_builder_cls()
        return make(spec, list(self.LAYERS), config, torch.device("cpu"))

    def metadata(self, builder, requests):
        """requests: (blocks, tokens so far with the new ones, new tokens)."""
        from vllm.v1.attention.backend import CommonAttentionMetadata

        starts = torch.tensor([0] + [new for _, _, new in requests]).cumsum(0).int()
        table = torch.zeros(len(requests), 32, dtype=torch.int32)
        for row, (blocks, _, _) in enumerate(requests):
            table[row, : len(blocks)] = torch.tensor(blocks)
        lengths = torch.tensor([total for _, total, _ in requests]).int()
        return builder.build(
            0,
            CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=lengths,
                num_reqs=len(requests),
                num_actual_tokens=int(starts[-1]),
                max_query_len=int(max(new for _, _, new in requests)),
                max_seq_len=int(lengths.max()),
                block_table_tensor=table,
                slot_mapping=torch.zeros(int(starts[-1]), dtype=torch.int64),
            ),
        )

    def test_registers(self, monkeypatch):
        from vllm.v1.attention.backends.registry import AttentionBackendEnum

        monkeypatch.setenv(vllm_plugin.VARIABLE, "4")
        vllm_plugin.register()
        assert AttentionBackendEnum.CPU_ATTN.get_path() == vllm_plugin.BACKEND
        assert AttentionBackendEnum.CPU_ATTN.get_class().get_name() == "CPU_ATTN"

    def test_blocks_are_counted_packed(self):
        from vllm.v1.kv_cache_interface import FullAttentionSpec

        from quashdb.kv.vllm_backend import QuashAttentionBackend

        spec = FullAttentionSpec(block_size=64, num_kv_heads=2, head_size=128, dtype=torch.bfloat16)
        packed = QuashAttentionBackend.customize_spec(spec)
        assert 3 < spec.page_size_bytes / packed.page_size_bytes < 4

    @pytest.mark.parametrize("window", [None, 24])
    def test_requests_come_grow_and_go(self, window):
        from quashdb.kv.vllm_backend import QuashAttentionImpl

        builder = self.builder()
        impl = QuashAttentionImpl(4, 32, 0.2, 2, sliding_window=window)
        torch.manual_seed(0)
        k, v = torch.randn(2, 90, 2, 32), torch.randn(2, 90, 2, 32)
        # Short texts: sink and open tokens, exact. Prefill of both; one token
        # and a chunk; two drafts; the two refused and replaced.
        steps = [((20, 20), (33, 33)), ((21, 1), (53, 20)), ((23, 2), (54, 1)), ((22, 1), (55, 1))]
        blocks = ([3, 9], [5, 6, 7, 8])
        for step in steps:
            requests = [(blocks[i], *step[i]) for i in range(2)]
            metadata = self.metadata(builder, requests)
            for name in self.LAYERS:
                q = torch.randn(sum(new for _, new in step), 4, 32)
                rows = [slice(total - new, total) for total, new in step]
                keys = torch.cat([k[i, rows[i]] for i in range(2)])
                values = torch.cat([v[i, rows[i]] for i in range(2)])
                output = torch.empty_like(q)
                layer = types.SimpleNamespace(layer_name=name)
                impl.forward(layer, q, keys, values, torch.empty(0), metadata, output)
                begin = 0
                for i, (total, new) in enumerate(step):
                    part = slice(begin, begin + new)
                    expected = attention(q[part], k[i, :total], v[i, :total], window)
                    torch.testing.assert_close(output[part], expected, rtol=1e-3, atol=1e-3)
                    begin += new
        store = metadata.store
        assert store.stats().sequences == 2
        self.metadata(builder, [([9, 5], 20, 20)])  # blocks of both finished requests
        assert store.stats().sequences == 2
        self.metadata(builder, [([3], 4, 4)])
        assert store.stats().sequences == 2

    def test_what_it_cannot_do_is_refused(self):
        from quashdb.kv.vllm_backend import QuashAttentionImpl

        with pytest.raises(UnsupportedError, match="no-enable-prefix-caching"):
            self.builder(prefix_caching=True)
        with pytest.raises(UnsupportedError, match="hybrid"):
            self.builder(window_spec=True)
        with pytest.raises(UnsupportedError, match="ALiBi"):
            QuashAttentionImpl(4, 32, 0.2, 2, alibi_slopes=[1.0] * 4)
        with pytest.raises(UnsupportedError, match="computed tokens"):
            self.metadata(self.builder(), [([3], 10, 2)])

"""PackedStore, QuashKVEngine and the page managers against float attention."""

import copy
import math
import pickle
import threading

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

kv = pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
import torch  # noqa: E402

DTYPES = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def attention(q, k, v, causal=True, window=0, softcap=0.0, scale=None):
    """Of q [nq, hq, d] over k, v [n, h, d], in float64; (out, lse)."""
    nq, hq, d = q.shape
    n, h, _ = k.shape
    q, k, v = q.double(), k.double(), v.double()
    k, v = k.repeat_interleave(hq // h, 1), v.repeat_interleave(hq // h, 1)
    scores = torch.einsum("qhd,nhd->hqn", q, k) * (d**-0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    at, token = torch.arange(n - nq, n)[:, None], torch.arange(n)
    if causal:
        scores = scores.masked_fill(token > at, -math.inf)
    if window:
        scores = scores.masked_fill(token <= at - window, -math.inf)
    out = torch.einsum("hqn,nhd->qhd", scores.softmax(-1), v)
    return out, scores.logsumexp(-1).T


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).mean())


class TestStore:
    @settings(max_examples=40)
    @given(
        n=st.sampled_from([1, 2, 63, 64, 65, 79, 80, 81, 127, 128, 129, 200]),
        nq=st.integers(1, 5),
        dim=st.sampled_from([16, 64, 80, 128]),
        dtype=st.sampled_from(list(DTYPES)),
        groups=st.integers(1, 4),
        window=st.sampled_from([0, 1, 50]),
        softcap=st.sampled_from([0.0, 3.0]),
        causal=st.booleans(),
    )
    def test_uncompressed_layer_is_attention(
        self, n, nq, dim, dtype, groups, window, softcap, causal
    ):
        window = window if causal else 0
        nq = min(nq, n)
        k, v = torch.randn(n, 2, dim).to(dtype), torch.randn(n, 2, dim).to(dtype)
        q = torch.randn(nq, 2 * groups, dim).to(dtype)
        store = kv.PackedStore(1, 2, dim, dtype=dtype, uncompressed_layers=[0])
        seq = store.create()
        for begin in range(0, n, 37):
            store.append(seq, 0, k[begin : begin + 37], v[begin : begin + 37])
        options = {"window": window, "softcap": softcap, "causal": causal}
        out, lse = store.attend(0, [seq], q, [nq], return_lse=True, **options)
        expected, expected_lse = attention(q, k, v, **options)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])
        torch.testing.assert_close(lse.double(), expected_lse, rtol=2e-3, atol=2e-3)
        keys, values = store.read(seq, 0)
        assert torch.equal(keys, k.float()) and torch.equal(values, v.float())

    @pytest.mark.parametrize("bits", [2, 2.5, 3, 3.5, 4])
    @pytest.mark.parametrize("k_quantizer", ["tq_mse", "tq_prod"])
    def test_attention_is_that_over_what_read_gives(self, bits, k_quantizer):
        if k_quantizer == "tq_prod" and bits != int(bits):
            with pytest.raises(ValueError):
                kv.PackedStore(1, 2, 64, key_bits=bits, k_quantizer=k_quantizer)
            return
        store = kv.PackedStore(1, 2, 64, key_bits=bits, value_bits=bits, k_quantizer=k_quantizer)
        seq = store.create()
        k, v, q = torch.randn(500, 2, 64), torch.randn(500, 2, 64), torch.randn(3, 4, 64)
        store.append(seq, 0, k, v)
        keys, values = store.read(seq, 0)
        out, _ = store.attend(0, [seq], q, [3])
        expected, _ = attention(q, keys, values)
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-3)
        # A sink page, six sealed ones, 52 open tokens.
        assert torch.equal(keys[:64], k[:64]) and torch.equal(keys[448:], k[448:])
        least = {2: 0.9, 2.5: 0.93, 3: 0.97, 3.5: 0.98, 4: 0.99}[bits]
        assert cosine(values[64:448], v[64:448]) > least
        stats = store.stats()
        assert stats.pages == 6 and stats.sealed_ratio > 14 / (bits + 1)

    def test_varlen_batch(self):
        store = kv.PackedStore(2, 2, 32, uncompressed_layers=[1])
        lengths, counts = [5, 100, 64], [2, 0, 3]
        data = [(torch.randn(n, 2, 32), torch.randn(n, 2, 32)) for n in lengths]
        seqs = [store.create() for _ in lengths]
        for seq, (k, v) in zip(seqs, data, strict=True):
            store.append(seq, 1, k, v)
        q = torch.randn(5, 4, 32)
        out, _ = store.attend(1, seqs, q, counts)
        first, _ = attention(q[:2], *data[0])
        last, _ = attention(q[2:], *data[2])
        torch.testing.assert_close(out.double(), torch.cat((first, last)), rtol=1e-3, atol=1e-3)

    def test_strided_views_are_read_in_place(self):
        k = torch.randn(2, 70, 32).transpose(0, 1)
        store = kv.PackedStore(1, 2, 32, uncompressed_layers=[0])
        seq = store.create()
        store.append(seq, 0, k, (k * 2).contiguous())
        keys, values = store.read(seq, 0)
        assert torch.equal(keys, k) and torch.equal(values, k * 2)

    @settings(max_examples=60)
    @given(
        lengths=st.lists(
            st.sampled_from([1, 2, 15, 63, 64, 65, 79, 80, 81, 127, 128, 129, 145, 200]),
            min_size=3, max_size=3,
        ).map(sorted),
        dim=st.sampled_from([16, 48, 64, 128]),
        heads=st.integers(1, 3),
        dtype=st.sampled_from(list(DTYPES)),
        bits=st.sampled_from([2, 3, 4]),
        halves=st.booleans(),
        k_quantizer=st.sampled_from(["tq_mse", "tq_prod"]),
        rotation=st.sampled_from(["hadamard", "dense", "rht"]),
        sink_pages=st.integers(0, 2),
        reserve=st.sampled_from([0, 1, 16, 70]),
        step=st.sampled_from([1, 37, 64, 200]),
        seed=st.integers(0, 2**31),
    )  # fmt: skip
    def test_every_way_to_the_same_tokens_is_a_fresh_cache(
        self, lengths, dim, heads, dtype, bits, halves, k_quantizer, rotation, sink_pages, reserve,
        step, seed,
    ):  # fmt: skip
        """Bit for bit: appended in pieces, forked, truncated within the reserve,
        saved and restored half-way."""
        cut, _, n = lengths
        if rotation == "rht":
            assume(dim >= 64 and k_quantizer == "tq_mse")
            halves = False
        value_bits = bits + 0.5 if halves and bits < 4 and dim % 32 == 0 else bits

        def store():
            return kv.PackedStore(
                1, heads, dim, dtype=dtype, key_bits=bits, value_bits=value_bits,
                k_quantizer=k_quantizer, rotation=rotation, sink_pages=sink_pages,
                reserve=reserve, threads=1,
            )  # fmt: skip

        torch.manual_seed(seed)
        k, v, other = (torch.randn(n, heads, dim).to(dtype) for _ in range(3))
        q = torch.randn(2, 2 * heads, dim).to(dtype)[: min(2, n)]

        def look(store, seq):
            out, lse = store.attend(0, [seq], q, [len(q)], return_lse=True)
            return store.length(seq), *store.read(seq, 0), out, lse

        def same(store, seq):
            return all(
                a == b if isinstance(a, int) else torch.equal(a, b)
                for a, b in zip(look(store, seq), expected, strict=True)
            )

        fresh = store()
        seq = fresh.create()
        fresh.append(seq, 0, k, v)
        expected = look(fresh, seq)

        main = store()
        paged = main.create()
        for begin in range(0, n, step):
            main.append(paged, 0, k[begin : begin + step], v[begin : begin + step])
        assert same(main, paged)

        origin = main.create()
        main.append(origin, 0, k[:cut], v[:cut])
        fork = main.fork(origin)
        main.append(origin, 0, other, other)
        main.append(fork, 0, k[cut:], v[cut:])
        assert same(main, fork)

        # A guess of new tokens, taken back. No longer than what follows: more
        # tokens would have sealed pages that the fresh cache has not.
        extra = min(reserve, n - cut)
        guessed = main.create()
        main.append(guessed, 0, k[:cut], v[:cut])
        main.append(guessed, 0, other[:extra], other[:extra])
        short = main.fork(guessed, cut)
        main.truncate(guessed, cut)
        for seq in (short, guessed):
            main.append(seq, 0, k[cut:], v[cut:])
            assert same(main, seq)

        half = main.create()
        main.append(half, 0, k[:cut], v[:cut])
        moved = store()
        restored = moved.restore(main.save(half))
        moved.append(restored, 0, k[cut:], v[cut:])
        assert same(moved, restored)
        assert same(main, main.restore(moved.save(restored)))
        for seq in (origin, guessed, short):
            main.free(seq)
        assert same(main, fork) and same(main, paged)

    def test_fork_truncate_save_restore(self):
        store = kv.PackedStore(1, 2, 32)
        seq = store.create()
        k = torch.randn(300, 2, 32)
        store.append(seq, 0, k, k)
        pages = store.stats().pages
        fork = store.fork(seq)
        short = store.fork(seq, 130)
        assert store.stats().pages == pages
        assert (store.length(fork), store.length(short)) == (300, 130)
        store.truncate(fork, 290)
        assert torch.equal(store.read(fork, 0)[0], store.read(seq, 0)[0][:290])
        data = store.save(seq)
        again = store.restore(data)
        assert torch.equal(store.read(again, 0)[0], store.read(seq, 0)[0])
        for broken in (data[:-1], b"", data[: len(data) // 2]):
            with pytest.raises(OSError):
                store.restore(broken)
        store.free(fork)
        with pytest.raises(KeyError):
            store.length(fork)

    def test_threads_append_and_attend(self):
        store = kv.PackedStore(1, 2, 64, threads=1)
        k, q = torch.randn(300, 2, 64), torch.randn(1, 4, 64)
        results = {}

        def work(name):
            seq = store.create()
            for begin in range(0, 300, 50):
                store.append(seq, 0, k[begin : begin + 50], k[begin : begin + 50])
                results[name] = store.attend(0, [seq], q)[0]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(results[i], results[0]) for i in range(4))

    def test_bad_arguments(self):
        for wrong in (
            {"num_layers": 0}, {"num_layers": 1025}, {"num_kv_heads": 0}, {"head_dim": 24},
            {"head_dim": 528}, {"key_bits": 1}, {"dtype": torch.float64}, {"rotation": "none"},
            {"v_outliers": [99] * 32, "value_bits": 2.5}, {"sink_pages": -1},
        ):  # fmt: skip
            with pytest.raises(ValueError):
                kv.PackedStore(**{"num_layers": 1, "num_kv_heads": 2, "head_dim": 64, **wrong})
        store = kv.PackedStore(1, 2, 64)
        seq = store.create()
        k, q = torch.randn(3, 2, 64), torch.randn(1, 4, 64)
        with pytest.raises(ValueError):
            store.attend(0, [seq], q)  # no tokens
        with pytest.raises(ValueError):
            store.append(seq, 0, k, torch.full_like(k, math.nan))
        assert store.length(seq) == 0
        for keys, values in ((k[:, :1], k[:, :1]), (k, k[:2]), (k, k.half()), (k.double(),) * 2):
            with pytest.raises(ValueError):
                store.append(seq, 0, keys, values)
        store.append(seq, 0, k, k)
        with pytest.raises(ValueError):
            store.attend(0, [seq], torch.randn(4, 4, 64), [4])  # more causal queries than tokens
        with pytest.raises(ValueError):
            store.attend(0, [seq], torch.randn(1, 3, 64))  # not a multiple of the KV heads
        with pytest.raises(ValueError):
            store.attend(0, [seq], q, [2])
        for call in (lambda: store.append(seq, 1, k, k), lambda: store.attend(1, [seq], q)):
            with pytest.raises(ValueError):
                call()
        with pytest.raises(KeyError):
            store.append(seq + 1, 0, k, k)
        with pytest.raises(ValueError, match="q of row 0, head 2 has NaN"):
            store.attend(0, [seq], q.index_fill(1, torch.tensor([2]), math.nan))
        with pytest.raises(ValueError, match="dense"):
            store.append(seq, 0, k.to_sparse(), k.to_sparse())
        for name, call in {
            "layer": lambda: store.append(seq, -1, k, k),
            "the sequence": lambda: store.free(-1),
            "begin": lambda: store.read(seq, 0, -1),
            "n": lambda: store.read(seq, 0, 1, 10**12),
            "window": lambda: store.attend(0, [seq], q, window=-1),
        }.items():
            with pytest.raises(ValueError, match=f"^{name} is -?1"):
                call()

    def test_integers_of_other_libraries(self):
        numpy = pytest.importorskip("numpy")
        for half in (numpy.arange(32), torch.arange(32)):
            store = kv.PackedStore(numpy.int64(1), 2, 64, key_bits=2.5, k_outliers=half)
            kv.QuashKVCache(1, 64, kv.QuashKVCacheConfig(key_bits=2.5, k_outliers=half))
        seq = numpy.uint64(store.create())
        k = torch.randn(9, 2, 64)
        store.append(seq, numpy.int32(0), k, k)
        store.truncate(seq, numpy.int64(7))
        assert store.length(store.fork(seq, torch.tensor(5))) == 5
        assert torch.equal(store.read(seq, 0, numpy.int64(2))[0], k[2:7])

    def test_restores_any_buffer(self):
        store = kv.PackedStore(1, 2, 64)
        seq = store.create()
        store.append(seq, 0, torch.randn(9, 2, 64), torch.randn(9, 2, 64))
        data = store.save(seq)
        for buffer in (bytearray(data), memoryview(data)):
            assert store.save(store.restore(buffer)) == data
        with pytest.raises(TypeError):
            store.restore("text")
        for copying in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="PackedStore cannot be pickled"):
                copying(store)


class TestEngine:
    @pytest.mark.parametrize("bits", [2, 3, 4])
    def test_attention_and_ratio(self, bits):
        engine = kv.QuashKVEngine(64, bits, bits)
        k, v = torch.randn(2, 2, 640, 64), torch.randn(2, 2, 640, 64)
        for begin in range(0, 640, 100):
            engine.append(k[:, :, begin : begin + 100], v[:, :, begin : begin + 100])
        assert engine.total_tokens == 640
        q = torch.randn(2, 4, 3, 64)
        out = engine.attention(q, causal=True)
        assert out.shape == q.shape
        for row in range(2):
            expected, _ = attention(*(x[row].transpose(0, 1) for x in (q, k, v)))
            assert cosine(out[row].transpose(0, 1), expected) > {2: 0.75, 3: 0.9, 4: 0.97}[bits]
        # Of the predecessor at head_dim 64, without page means.
        least = {2: 6.0, 3: 4.4, 4: 3.4}[bits]
        assert engine.compression_ratio() > least
        assert engine.compression_ratio(torch.float32) == pytest.approx(
            2 * engine.compression_ratio()
        )
        report = engine.memory_report()
        assert report.total_bytes == engine.actual_memory_bytes()
        assert report.total_bytes == report.packed_bytes + report.open_bytes + report.table_bytes

    def test_empty_and_cleared(self):
        engine = kv.QuashKVEngine(64)
        with pytest.raises(ValueError, match="empty"):
            engine.attention(torch.randn(1, 2, 1, 64))
        assert (
            engine.total_tokens == engine.actual_memory_bytes() == engine.compression_ratio() == 0
        )
        engine.append(torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64))
        engine.clear()
        assert engine.total_tokens == 0
        engine.append(torch.randn(3, 1, 5, 64), torch.randn(3, 1, 5, 64))
        assert engine.total_tokens == 5

    def test_bad_arguments(self):
        engine = kv.QuashKVEngine(64)
        engine.append(torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64))
        with pytest.raises(ValueError, match="batch and heads"):
            engine.append(torch.randn(2, 2, 5, 64), torch.randn(2, 2, 5, 64))
        with pytest.raises(ValueError, match="shape"):
            engine.append(torch.randn(1, 2, 5, 32), torch.randn(1, 2, 5, 32))
        with pytest.raises(ValueError):
            kv.QuashKVEngine(64, key_bits=1)
        with pytest.raises(NotImplementedError):
            kv.QuashKVEngine(64, device="meta")

    def test_all_sequences_are_appended_to_or_none(self):
        engine = kv.QuashKVEngine(64)
        k = torch.randn(2, 2, 70, 64)
        spoilt = k.clone()
        spoilt[1, 0, 3, 5] = math.nan
        with pytest.raises(ValueError, match="NaN"):
            engine.append(spoilt, k)
        engine.append(k[:1], k[:1])  # the first to fix the batch
        engine.clear()
        engine.append(k, k)
        with pytest.raises(ValueError, match="NaN"):
            engine.append(spoilt, k)
        assert engine.total_tokens == 70 and engine.stats().tokens == 2 * 70


class TestManagers:
    def test_sequences_fork_leave_and_return(self):
        pages = kv.QuashKVPageManager(2, 32)
        k = torch.randn(200, 2, 32)
        pages.compress_and_store(k, k)
        pages.fork(0, "copy", 150)
        pages.append("copy", k[:10], k[:10])
        assert pages.total_tokens == 360 and len(pages) == 2 and "copy" in pages
        assert pages.num_blocks("copy") == 3
        q = torch.randn(2, 4, 32)
        before = pages.attention(q, [0, "copy"])
        saved = pages.preempt("copy")
        assert "copy" not in pages
        pages.resume("back", saved)
        torch.testing.assert_close(pages.attention(q, [0, "back"]), before)
        pages.truncate("back", 20)
        assert pages.num_tokens("back") == 20
        assert pages.compression_ratio > 0
        pages.clear()
        assert pages.total_tokens == pages.total_compressed_bytes == 0

    def test_model_manager(self):
        manager = kv.QuashKVModelManager(
            3, 2, 32, kv.QuashKVPageConfig(uncompressed_layers=(0, 1, 2))
        )
        lengths = [70, 5]
        data = torch.randn(3, 75, 2, 32)
        q = torch.randn(3, 75, 4, 32)
        for layer in range(3):
            out = manager.forward_layer(layer, q[layer], data[layer], data[layer], "ab", lengths)
            for rows in (slice(0, 70), slice(70, 75)):
                expected, _ = attention(q[layer, rows], data[layer, rows], data[layer, rows])
                torch.testing.assert_close(out[rows].double(), expected, rtol=1e-3, atol=1e-3)
        assert manager.total_tokens == 75 and manager.stats().tokens == 225
        assert manager.forward_layer(0, q[0, :2], data[0, :2], data[0, :2], "ab").shape == (
            2,
            4,
            32,
        )

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="block_size"):
            kv.QuashKVPageManager(2, 32, kv.QuashKVPageConfig(block_size=16))
        pages = kv.QuashKVPageManager(2, 32)
        pages.allocate("a")
        with pytest.raises(ValueError, match="already"):
            pages.allocate("a")
        with pytest.raises(KeyError, match="'b'"):
            pages.free("b")
        with pytest.raises(ValueError, match="tokens"):
            pages.attention(torch.randn(1, 2, 32), ["a"])

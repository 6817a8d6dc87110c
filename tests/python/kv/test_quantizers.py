"""Codebooks, quantizers, packing and fused functions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

kv = pytest.importorskip(
    "quashdb.kv", reason="quashdb.kv needs torch and libquashkv", exc_type=ImportError
)
import torch  # noqa: E402


def unit_vectors(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


class TestCodebook:
    @pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
    def test_is_ascending_and_symmetric(self, bits):
        book = kv.get_codebook(128, bits)
        assert book.centroids.shape == (1 << bits,)
        assert book.boundaries.shape == ((1 << bits) - 1,)
        assert (book.centroids.diff() > 0).all() and (book.boundaries.diff() > 0).all()
        torch.testing.assert_close(book.centroids, -book.centroids.flip(0))

    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_mse_is_that_of_theory(self, bits):
        cost = kv.compute_mse_cost(1024, bits)
        assert cost == pytest.approx(kv.theory.LLOYD_MAX_MSE[bits], rel=0.02)
        assert kv.theory.mse_lower_bound(bits) < cost < kv.theory.mse_upper_bound(bits)

    def test_quantize_takes_the_nearest(self):
        book = kv.get_codebook(64, 3)
        values = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
        nearest = (values[:, None] - book.centroids).abs().argmin(1)
        indices = book.quantize(values)
        assert indices.dtype == torch.uint8
        assert torch.equal(indices.long(), nearest)
        torch.testing.assert_close(book.dequantize(indices), book.centroids[nearest].float())

    def test_gaussian_limit(self):
        exact, _ = kv.solve_lloyd_max(4096, 2)
        limit, _ = kv.solve_lloyd_max(4096, 2, use_exact_pdf=False)
        torch.testing.assert_close(exact, limit, rtol=1e-3, atol=0)

    @pytest.mark.parametrize("bits", [0, 5, 7, 9, -1, 2.5, "3"])
    def test_bad_bits(self, bits):
        with pytest.raises(ValueError, match="bits"):
            kv.get_codebook(64, bits)

    @pytest.mark.parametrize("d", [0, -1, 65537])
    def test_bad_dimension(self, d):
        with pytest.raises(ValueError, match="d is"):
            kv.get_codebook(d, 2)


class TestPacking:
    @given(st.data())
    def test_round_trip(self, data):
        bits = data.draw(st.sampled_from([1, 2, 3, 4, 8]))
        d = data.draw(st.integers(1, 70))
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        codes = torch.randint(0, 1 << bits, (*shape, d), dtype=torch.uint8)
        packed = kv.pack_bits(codes, bits)
        assert packed.shape == (*shape, math.ceil(d * bits / 8))
        assert torch.equal(kv.unpack_bits(packed, bits, d), codes)

    def test_bit_order(self):
        packed = kv.pack_bits(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), 3)
        word = sum(code << (3 * i) for i, code in enumerate([1, 2, 3, 4, 5, 6, 7, 0]))
        assert packed.tolist() == list(word.to_bytes(3, "little"))

    def test_8_bits_pass_through(self):
        codes = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(kv.pack_bits(codes, 8), codes)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="bits"):
            kv.pack_bits(torch.zeros(4, dtype=torch.uint8), 5)
        with pytest.raises(ValueError, match="index is 4"):
            kv.pack_bits(torch.tensor([1, 4]), 2)
        with pytest.raises(ValueError, match="-1"):
            kv.pack_bits(torch.tensor([-1, 1]), 2)
        with pytest.raises(ValueError, match="integers"):
            kv.pack_bits(torch.tensor([1.0]), 2)
        with pytest.raises(ValueError, match="shape"):
            kv.unpack_bits(torch.zeros(3, dtype=torch.uint8), 2, 16)
        with pytest.raises(ValueError, match="d is 0"):
            kv.packed_size(0, 2)


class TestMSEQuantizer:
    @pytest.mark.parametrize("rotation", ["hadamard", "dense"])
    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_error_is_that_of_theory(self, bits, rotation):
        x = unit_vectors(500, 128)
        quantizer = kv.MSEQuantizer(128, bits, rotation=rotation)
        indices, norms = quantizer.compress(x)
        mse = (quantizer.decompress(indices, norms) - x).pow(2).sum(-1).mean()
        assert float(mse) == pytest.approx(kv.compute_mse_cost(128, bits), rel=0.05)
        assert float(mse) < kv.theory.mse_upper_bound(bits)
        torch.testing.assert_close(norms.mean(), torch.tensor(1.0), rtol=0.01, atol=0)

    def test_indices_are_of_rotated_coordinates(self):
        x = unit_vectors(20, 64)
        quantizer = kv.MSEQuantizer(64, 3)
        indices, norms = quantizer.compress(x * 5)
        assert torch.equal(indices, quantizer.codebook.quantize(quantizer.rotate(x)))
        by_hand = quantizer.unrotate(quantizer.codebook.dequantize(indices)) * norms[:, None]
        torch.testing.assert_close(quantizer.decompress(indices, norms), by_hand, rtol=0, atol=0.1)

    @settings(max_examples=40)
    @given(
        shape=st.lists(st.integers(0, 3), max_size=3),
        d=st.sampled_from([1, 7, 16, 64, 100]),
        dtype=st.sampled_from(
            [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32]
        ),
        bits=st.integers(1, 4),
    )
    def test_any_shape_and_dtype(self, shape, d, dtype, bits):
        x = (torch.randn(*shape, d) * 4).to(dtype)
        quantizer = kv.MSEQuantizer(d, bits)
        indices, norms = quantizer.compress(x)
        assert indices.shape == x.shape and indices.dtype == torch.uint8
        assert norms.shape == x.shape[:-1]
        restored = quantizer.decompress(indices, norms)
        assert restored.shape == x.shape and restored.isfinite().all()
        codes, scales = quantizer.encode(x)
        assert torch.equal(quantizer.unpack(codes), indices)
        torch.testing.assert_close(quantizer.decode(codes, scales), restored)

    def test_strided_input(self):
        x = torch.randn(4, 64, 6).transpose(1, 2)
        quantizer = kv.MSEQuantizer(64)
        torch.testing.assert_close(quantizer.encode(x)[0], quantizer.encode(x.contiguous())[0])

    def test_rotation_is_orthogonal_and_seeded(self):
        quantizer = kv.MSEQuantizer(96, seed=7)
        x = torch.randn(3, 5, 96)
        y = quantizer.rotate(x)
        torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
        torch.testing.assert_close(quantizer.unrotate(y), x, rtol=1e-4, atol=1e-5)
        assert torch.equal(kv.MSEQuantizer(96, seed=7).rotate(x), y)
        assert not torch.equal(kv.MSEQuantizer(96, seed=8).rotate(x), y)

    def test_zero_vector(self):
        quantizer = kv.MSEQuantizer(32)
        assert torch.equal(
            quantizer.decompress(*quantizer.compress(torch.zeros(32))), torch.zeros(32)
        )

    def test_dot(self):
        x, q = unit_vectors(300, 128), unit_vectors(7, 128, seed=1)
        quantizer = kv.MSEQuantizer(128, 4)
        estimates = quantizer.dot(q, *quantizer.compress(x))
        assert estimates.shape == (7, 300)
        assert float((estimates - q @ x.T).abs().max()) < 0.06

    def test_bad_arguments(self):
        quantizer = kv.MSEQuantizer(32)
        with pytest.raises(ValueError, match="row 1"):
            quantizer.compress(torch.tensor([[1.0] * 32, [float("nan")] * 32]))
        with pytest.raises(ValueError, match="shape"):
            quantizer.compress(torch.zeros(3, 31))
        with pytest.raises(ValueError, match="less than 8"):
            quantizer.decompress(torch.full((2, 32), 8), torch.ones(2))
        with pytest.raises(TypeError, match="Tensor"):
            quantizer.compress([1.0] * 32)
        with pytest.raises(NotImplementedError, match="meta"):
            quantizer.compress(torch.zeros(2, 32, device="meta"))
        for bits in (0, 5):
            with pytest.raises(ValueError, match="bits"):
                kv.MSEQuantizer(32, bits)


class TestInnerProductQuantizer:
    @pytest.mark.parametrize("bits", [2, 3, 4, 5])
    def test_is_unbiased_within_its_bound(self, bits):
        x, q = unit_vectors(1, 128), unit_vectors(50, 128, seed=1)
        errors = []
        for seed in range(60):
            quantizer = kv.InnerProductQuantizer(128, bits, seed=seed)
            errors.append(quantizer.dot(q, *quantizer.compress(x))[:, 0] - (q @ x.T)[:, 0])
        error = torch.stack(errors).flatten()
        bound = kv.theory.ip_upper_bound(128, bits)
        assert float(error.var()) < bound
        assert abs(float(error.mean())) < 4 * math.sqrt(bound / 60)

    def test_compress_gives_the_parts(self):
        x = torch.randn(2, 3, 64)
        quantizer = kv.InnerProductQuantizer(64, 3)
        indices, signs, norms = quantizer.compress(x)
        assert indices.shape == signs.shape == x.shape and norms.shape == (2, 3, 2)
        assert set(signs.unique().tolist()) == {-1, 1} and int(indices.max()) == 3
        torch.testing.assert_close(norms[..., 0], x.norm(dim=-1), rtol=1e-4, atol=0)
        codes, scales = quantizer.encode(x)
        torch.testing.assert_close(
            quantizer.decompress(indices, signs, norms), quantizer.decode(codes, scales)
        )
        assert torch.equal(quantizer._packed(indices, signs), codes)

    def test_needs_two_bits(self):
        for bits in (-1, 0, 1, 6):
            with pytest.raises(ValueError, match="bits"):
                kv.InnerProductQuantizer(64, bits)


class TestMixedPrecision:
    @pytest.mark.parametrize("kind", [kv.MixedPrecisionMSEQuantizer, kv.MixedPrecisionIPQuantizer])
    def test_calibration_pays_on_outliers(self, kind):
        x = torch.randn(400, 128, generator=torch.Generator().manual_seed(3))
        loud = torch.arange(3, 128, 4)
        x[:, loud] *= 10
        quantizer = kind(128)
        assert quantizer.effective_bits == 2.25 and not quantizer.calibrated

        def error():
            restored = quantizer.decompress(*quantizer.compress(x))
            return float((restored - x).pow(2).sum() / x.pow(2).sum())

        before = error()
        quantizer.calibrate(x)
        assert quantizer.calibrated
        assert torch.equal(quantizer.outlier_channels, loud)
        assert error() < 0.6 * before

    def test_set_outlier_channels(self):
        quantizer = kv.MixedPrecisionMSEQuantizer(64, 4, 3, 4)
        quantizer.set_outlier_channels(torch.tensor([9, 1, 60, 33]))
        assert quantizer.outlier_channels.tolist() == [1, 9, 33, 60]
        assert quantizer.calibrated
        for wrong in ([1, 2, 3], [1, 1, 2, 3], [1, 2, 3, 64], [-1, 2, 3, 4]):
            with pytest.raises(ValueError):
                quantizer.set_outlier_channels(torch.tensor(wrong))

    def test_dot(self):
        x, q = unit_vectors(200, 64), unit_vectors(5, 64, seed=1)
        quantizer = kv.MixedPrecisionMSEQuantizer(64, 4, 3, 32)
        assert float((quantizer.dot(q, *quantizer.compress(x)) - q @ x.T).abs().max()) < 0.15

    def test_bad_arguments(self):
        for arguments in ((64, 4, 2), (64, 3, 3), (64, 3, 2, 0), (64, 3, 2, 64), (64, 5, 4, 8)):
            with pytest.raises(ValueError):
                kv.MixedPrecisionMSEQuantizer(*arguments)


class TestFused:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("heads", [4, 2])
    def test_attention_is_that_over_decompressed_rows(self, causal, heads):
        k, v = torch.randn(2, 3, 2, 70, 64), torch.randn(2, 3, 2, 70, 32)
        q = torch.randn(2, 3, heads, 5, 64)
        kq, vq = kv.MSEQuantizer(64, 4), kv.MSEQuantizer(32, 4)
        packed_k, packed_v = kv.fused_compress(k, kq), kv.fused_compress(v, vq)
        out = kv.fused_attention(q, *packed_k, *packed_v, kq, vq, causal=causal)
        scores = torch.empty(2, 3, heads, 5, 70)
        for i in range(2):
            for j in range(3):
                for h in range(heads):
                    g = h // (heads // 2)
                    scores[i, j, h] = kq.encoded_dot(
                        q[i, j, h], packed_k[0][i, j, g], packed_k[1][i, j, g]
                    )
        scores /= 8
        if causal:
            scores.masked_fill_(torch.ones(5, 70, dtype=torch.bool).triu(66), -math.inf)
        values = kv.fused_decompress(*packed_v, vq).repeat_interleave(heads // 2, 2)
        torch.testing.assert_close(out, scores.softmax(-1) @ values, rtol=1e-4, atol=1e-5)

    def test_bad_arguments(self):
        quantizer = kv.MSEQuantizer(32)
        packed = kv.fused_compress(torch.randn(1, 3, 32), quantizer)
        empty = kv.fused_compress(torch.randn(1, 0, 32), quantizer)
        both = (quantizer, quantizer)
        with pytest.raises(ValueError, match="at least 1"):
            kv.fused_attention(torch.randn(1, 1, 32), *empty, *empty, *both)
        with pytest.raises(ValueError, match="4 causal"):
            kv.fused_attention(torch.randn(1, 4, 32), *packed, *packed, *both, causal=True)

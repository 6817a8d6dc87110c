"""TurboQuant's quantizers over tensors [..., d] of any batch shape and dtype."""

from __future__ import annotations

import ctypes

import torch

from quashdb.kv import _tensors
from quashdb.kv._ffi import lib
from quashdb.kv._quantizer import PackedQuantizer, indices_to_planes, planes_to_indices
from quashdb.kv.codebook import get_codebook
from quashdb.kv.errors import InvalidError, check


class MSEQuantizer(PackedQuantizer):
    """tq_mse: random rotation, then the Lloyd-Max quantizer of each coordinate.

        quantizer = MSEQuantizer(128, bits=3)
        indices, norms = quantizer.compress(x)       # x [..., 128]
        restored = quantizer.decompress(indices, norms)

    bits: 1 to 4. encode() gives the same codes packed.
    """

    def __init__(
        self,
        d: int,
        bits: int = 3,
        seed: int = 42,
        device: object = None,
        *,
        rotation: str = "hadamard",
    ) -> None:
        super().__init__(d, bits, 0, "tq_mse", seed, device, rotation)
        self.bits = bits
        self.codebook = get_codebook(d, bits)
        # decode() of scale 1 is one number times the centroids (rounded to
        # integer levels); norms are scales by that number.
        top = torch.full((1, d), (1 << bits) - 1, dtype=torch.uint8)
        level = self.rotate(self.decode(self.pack(top), torch.ones(1, 1))).mean()
        self._norm_of_scale = float(level) / float(self.codebook.centroids[-1])

    def compress(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(indices uint8 [..., d], norms float32 [...]) of finite x [..., d].

        x is about norms * unrotate(centroids[indices]); norms are |x| to within
        the quantizer's error of a row, and keep inner products unbiased.
        """
        codes, scales = self.encode(x)
        return self.unpack(codes), scales.squeeze(-1) * self._norm_of_scale

    def decompress(self, indices: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """float32 [..., d] of what compress() returned."""
        _tensors.same_batch("norms", norms, tuple(indices.shape[:-1]))
        return self.decode(self.pack(indices), norms.unsqueeze(-1) / self._norm_of_scale)

    def pack(self, indices: torch.Tensor) -> torch.Tensor:
        """Packed codes uint8 [..., code_size] of indices [..., d]."""
        rows = _tensors.bytes_of(indices, self.d, "indices")
        codes = torch.empty(len(rows), self.code_size, dtype=torch.uint8)
        check(lib.quash_quantizer_pack(self._handle, rows.data_ptr(), len(rows), codes.data_ptr()))
        return codes.reshape(*indices.shape[:-1], self.code_size)

    def unpack(self, codes: torch.Tensor) -> torch.Tensor:
        """Indices uint8 [..., d] of packed codes [..., code_size]."""
        rows = _tensors.bytes_of(codes, self.code_size, "codes")
        indices = torch.empty(len(rows), self.d, dtype=torch.uint8)
        check(
            lib.quash_quantizer_unpack(self._handle, rows.data_ptr(), len(rows), indices.data_ptr())
        )
        return indices.reshape(*codes.shape[:-1], self.d)

    def dot(
        self, queries: torch.Tensor, indices: torch.Tensor, norms: torch.Tensor
    ) -> torch.Tensor:
        """Estimates float32 [..., n] of queries [..., d] with n compressed rows
        (indices [n, d], norms [n])."""
        scales = norms.unsqueeze(-1) / self._norm_of_scale
        return self.encoded_dot(queries, self.pack(indices), scales)


class InnerProductQuantizer(PackedQuantizer):
    """tq_prod: one bit less of tq_mse, and the signs of a second rotation of what
    it left over (QJL). Inner products are unbiased over seeds.

    total_bits: 2 to 5, sketch included; InvalidError, a ValueError, otherwise.
    """

    def __init__(
        self,
        d: int,
        total_bits: int = 3,
        seed: int = 42,
        device: object = None,
        *,
        rotation: str = "hadamard",
    ) -> None:
        if isinstance(total_bits, int) and total_bits < 2:
            raise InvalidError(f"total_bits is {total_bits}, expected 2 to 5: one is the sketch")
        super().__init__(d, total_bits, 0, "tq_prod", seed, device, rotation)
        self.total_bits = total_bits
        self.mse_bits = total_bits - 1
        self.codebook = get_codebook(d, self.mse_bits)
        self._plane_bytes = self.code_size // total_bits
        # Scales are per integer level and per sign; norms are of the vectors.
        top = torch.full((1, d), (1 << self.mse_bits) - 1, dtype=torch.uint8)
        signs = torch.ones(1, d, dtype=torch.int8)
        level = self.rotate(self.decode(self._packed(top, signs), torch.tensor([[1.0, 0.0]])))
        mean_abs = float(get_codebook(d, 1).centroids[1])
        self._norm_of_scale = torch.tensor(
            [float(level.mean()) / float(self.codebook.centroids[-1]), d * mean_abs]
        )

    def compress(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(mse_indices uint8 [..., d], qjl_signs int8 [..., d] of -1 and 1, norms
        float32 [..., 2]) of finite x [..., d]. norms are |x| and the norm of what
        the MSE part left over."""
        codes, scales = self.encode(x)
        planes = codes.reshape(-1, self.total_bits, self._plane_bytes)
        indices = planes_to_indices(planes[:, : self.mse_bits], self.d)
        signs = planes_to_indices(planes[:, self.mse_bits :], self.d).to(torch.int8) * 2 - 1
        return indices.reshape(x.shape), signs.reshape(x.shape), scales * self._norm_of_scale

    def decompress(
        self, mse_indices: torch.Tensor, qjl_signs: torch.Tensor, norms: torch.Tensor
    ) -> torch.Tensor:
        """The unbiased reconstruction, float32 [..., d]. It lies farther from x
        than that of MSEQuantizer."""
        codes = self._packed(mse_indices, qjl_signs)
        return self.decode(codes, norms / self._norm_of_scale)

    def dot(
        self,
        queries: torch.Tensor,
        mse_indices: torch.Tensor,
        qjl_signs: torch.Tensor,
        norms: torch.Tensor,
    ) -> torch.Tensor:
        """Unbiased estimates float32 [..., n] of queries [..., d] with n
        compressed rows (mse_indices [n, d], qjl_signs [n, d], norms [n, 2])."""
        codes = self._packed(mse_indices, qjl_signs)
        return self.encoded_dot(queries, codes, norms / self._norm_of_scale)

    def _packed(self, indices: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        _tensors.same_batch("qjl_signs", signs, tuple(indices.shape))
        rows = _tensors.bytes_of(indices, self.d, "mse_indices")
        if rows.numel() and int(rows.max()) >> self.mse_bits:
            raise InvalidError(
                f"an index is {int(rows.max())}, expected less than {1 << self.mse_bits}"
            )
        positive = (signs > 0).reshape(-1, self.d).to(torch.uint8)
        planes = torch.cat(
            (
                indices_to_planes(rows, self.mse_bits, self._plane_bytes),
                indices_to_planes(positive, 1, self._plane_bytes),
            ),
            dim=1,
        )
        return planes.reshape(*indices.shape[:-1], self.code_size)


class _MixedPrecision(PackedQuantizer):
    def __init__(
        self,
        d: int,
        outlier_bits: int,
        regular_bits: int,
        n_outliers: int,
        quantizer: str,
        seed: int,
        device: object,
        rotation: str,
    ) -> None:
        if outlier_bits != regular_bits + 1:
            raise InvalidError(
                f"outlier_bits is {outlier_bits}, expected regular_bits + 1, {regular_bits + 1}"
            )
        if not isinstance(n_outliers, int) or not 1 <= n_outliers < d:
            raise InvalidError(f"n_outliers is {n_outliers!r}, expected 1 to d - 1, {d - 1}")
        super().__init__(d, regular_bits, n_outliers, quantizer, seed, device, rotation)
        self.outlier_bits = outlier_bits
        self.regular_bits = regular_bits
        self.n_outliers = n_outliers
        self.calibrated = False

    def compress(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(codes uint8 [..., code_size], scales float32 [..., scales_per_row]) of
        finite x [..., d]."""
        return self.encode(x)

    def decompress(self, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """float32 [..., d] of what compress() returned."""
        return self.decode(codes, scales)

    def dot(self, queries: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Estimates float32 [..., n] of queries [..., d] with n compressed rows."""
        return self.encoded_dot(queries, codes, scales)

    @property
    def outlier_channels(self) -> torch.Tensor:
        """int64 [n_outliers], ascending: the coordinates with one bit more."""
        channels = (ctypes.c_uint32 * self.n_outliers)()
        check(lib.quash_quantizer_outliers(self._handle, channels))
        return torch.tensor(list(channels))

    def set_outlier_channels(self, indices: torch.Tensor) -> None:
        """n_outliers distinct coordinates below d. What was compressed before
        cannot be read after."""
        channels = [int(index) for index in torch.as_tensor(indices).flatten()]
        if len(channels) != self.n_outliers or any(not 0 <= c < self.d for c in channels):
            raise InvalidError(
                f"indices are {channels}, expected {self.n_outliers} distinct ones below {self.d}"
            )
        array = (ctypes.c_uint32 * self.n_outliers)(*channels)
        check(lib.quash_quantizer_set_outliers(self._handle, array))
        self.calibrated = True

    def calibrate(self, data: torch.Tensor) -> None:
        """Makes the coordinates with the most energy over data [..., d] the
        outliers. What was compressed before cannot be read after."""
        matrix = _tensors.rows(data, self.d, "data")
        check(lib.quash_quantizer_calibrate(self._handle, matrix.data_ptr(), len(matrix)))
        self.calibrated = True


class MixedPrecisionMSEQuantizer(_MixedPrecision):
    """tq_mse with one bit more for n_outliers coordinates: the first ones until
    calibrate() or set_outlier_channels(). regular_bits: 1 to 3."""

    def __init__(
        self,
        d: int,
        outlier_bits: int = 3,
        regular_bits: int = 2,
        n_outliers: int = 32,
        seed: int = 42,
        device: object = None,
        *,
        rotation: str = "hadamard",
    ) -> None:
        super().__init__(
            d, outlier_bits, regular_bits, n_outliers, "tq_mse", seed, device, rotation
        )


class MixedPrecisionIPQuantizer(_MixedPrecision):
    """tq_prod with one bit more for n_outliers coordinates: the first ones until
    calibrate() or set_outlier_channels(). regular_bits: 2 to 4, sketch included."""

    def __init__(
        self,
        d: int,
        outlier_bits: int = 3,
        regular_bits: int = 2,
        n_outliers: int = 32,
        seed: int = 42,
        device: object = None,
        *,
        rotation: str = "hadamard",
    ) -> None:
        super().__init__(
            d, outlier_bits, regular_bits, n_outliers, "tq_prod", seed, device, rotation
        )

"""The quantizer of the C library as tensors to codes and scales."""

from __future__ import annotations

import ctypes
import weakref

import torch

from quashdb.kv import _ffi, _tensors
from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError, check


class PackedQuantizer:
    """What all quantizers share: vectors to packed rows and back.

    A row of d coordinates becomes code_size bytes and scales_per_row float32
    scales. Quantizers may be used by several threads at once; only
    set_outlier_channels() and calibrate() may not run beside other calls.

    d: coordinates, 1..65536 (4096 with the dense rotation).
    seed: of the rotation, 0..2^64-1.
    rotation: "hadamard" (fast) or "dense" (Haar, as in the paper).
    """

    def __init__(
        self,
        d: int,
        bits: int,
        num_outliers: int,
        quantizer: str,
        seed: int,
        device: object,
        rotation: str,
    ) -> None:
        self.device = _tensors.check_device(device)
        for name, value, most in (("d", d, 65536), ("bits", bits, 8), ("seed", seed, 2**64 - 1)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise InvalidError(f"{name} is {value!r}, expected an integer of 0 to {most}")
        if rotation not in ("hadamard", "dense"):
            raise InvalidError(f"rotation is {rotation!r}, expected 'hadamard' or 'dense'")
        options = _ffi.QuantizerOptions()
        lib.quash_quantizer_options_init(ctypes.byref(options))
        options.dim = d
        options.bits = bits
        options.num_outliers = num_outliers
        options.quantizer = _ffi.QUANTIZERS[quantizer]
        options.rotation = _ffi.ROTATIONS[rotation]
        options.seed = seed
        handle = ctypes.c_void_p()
        check(lib.quash_quantizer_create(ctypes.byref(options), ctypes.byref(handle)))
        self._handle = handle
        weakref.finalize(self, lib.quash_quantizer_free, handle).atexit = False
        self.d = d
        self.seed = seed
        self.rotation = rotation
        self.code_size: int = lib.quash_quantizer_code_size(handle)
        self.scales_per_row: int = lib.quash_quantizer_scales_per_row(handle)

    @property
    def effective_bits(self) -> float:
        """Bits per coordinate, scales aside."""
        return float(lib.quash_quantizer_effective_bits(self._handle))

    @property
    def compression_ratio(self) -> float:
        """Bytes of a vector as float16 over those of its codes and float16 scales."""
        return 2 * self.d / (self.code_size + 2 * self.scales_per_row)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed codes uint8 [..., code_size] and scales float32
        [..., scales_per_row] of x [..., d], any real dtype, finite."""
        matrix = _tensors.rows(x, self.d, "x")
        codes = torch.empty(len(matrix), self.code_size, dtype=torch.uint8)
        scales = torch.empty(len(matrix), self.scales_per_row)
        check(
            lib.quash_quantizer_encode(
                self._handle, matrix.data_ptr(), len(matrix), codes.data_ptr(), scales.data_ptr()
            )
        )
        batch = x.shape[:-1]
        return codes.reshape(*batch, self.code_size), scales.reshape(*batch, self.scales_per_row)

    def decode(self, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """float32 [..., d] of what encode() returned."""
        packed, factors = self._coded(codes, scales)
        out = torch.empty(len(packed), self.d)
        check(
            lib.quash_quantizer_decode(
                self._handle, packed.data_ptr(), factors.data_ptr(), len(packed), out.data_ptr()
            )
        )
        return out.reshape(*codes.shape[:-1], self.d)

    def encoded_dot(
        self, queries: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
    ) -> torch.Tensor:
        """Estimates of inner products straight from codes.

        queries: [..., d]; codes: [n, code_size]; scales: [n, scales_per_row].
        Returns float32 [..., n].
        """
        matrix = _tensors.rows(queries, self.d, "queries")
        packed, factors = self._coded(codes, scales)
        out = torch.empty(len(matrix), len(packed))
        check(
            lib.quash_quantizer_dot(
                self._handle,
                matrix.data_ptr(),
                len(matrix),
                packed.data_ptr(),
                factors.data_ptr(),
                len(packed),
                out.data_ptr(),
            )
        )
        return out.reshape(*queries.shape[:-1], len(packed))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        """R x in float32 for x [..., d]: the rotation that codes are made in."""
        return self._rotated(x, 0)

    def unrotate(self, y: torch.Tensor) -> torch.Tensor:
        """R^T y in float32 for y [..., d]: the inverse of rotate()."""
        return self._rotated(y, 1)

    def _rotated(self, x: torch.Tensor, inverse: int) -> torch.Tensor:
        matrix = _tensors.rows(x, self.d, "x")
        out = torch.empty_like(matrix)
        check(
            lib.quash_quantizer_rotate(
                self._handle, matrix.data_ptr(), len(matrix), inverse, out.data_ptr()
            )
        )
        return out.reshape(x.shape)

    def _coded(
        self, codes: torch.Tensor, scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        packed = _tensors.bytes_of(codes, self.code_size, "codes")
        _tensors.same_batch("scales", scales, (*codes.shape[:-1], self.scales_per_row))
        return packed, _tensors.rows(scales, self.scales_per_row, "scales")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d={self.d}, effective_bits={self.effective_bits:g})"


def planes_to_indices(codes: torch.Tensor, d: int) -> torch.Tensor:
    """Ascending indices uint8 [n, d] of bit planes uint8 [n, bits, plane_bytes],
    top bit first; byte c of a plane holds coordinates 8c.. from its lowest bit."""
    bits = codes.shape[1]
    spread = (codes.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    planes = spread.flatten(2)[:, :, :d]
    weights = torch.tensor([1 << (bits - 1 - p) for p in range(bits)], dtype=torch.uint8)
    return (planes * weights[:, None]).sum(1, dtype=torch.uint8)


def indices_to_planes(indices: torch.Tensor, bits: int, plane_bytes: int) -> torch.Tensor:
    """The inverse of planes_to_indices: uint8 [n, bits, plane_bytes]."""
    n, d = indices.shape
    padded = torch.zeros(n, plane_bytes * 8, dtype=torch.uint8)
    padded[:, :d] = indices
    shifts = torch.arange(bits - 1, -1, -1, dtype=torch.uint8)
    planes = (padded[:, None, :] >> shifts[:, None]) & 1
    weights = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8)
    return (planes.reshape(n, bits, plane_bytes, 8) * weights).sum(-1, dtype=torch.uint8)

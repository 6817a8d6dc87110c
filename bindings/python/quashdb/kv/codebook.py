"""Lloyd-Max codebooks of one coordinate of a random unit vector."""

from __future__ import annotations

import ctypes
import functools

import torch

from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError, check


class Codebook:
    """The optimal scalar quantizer of one coordinate of a uniform point on the
    unit sphere of R^d; get_codebook() makes it.

    d, bits: what it is for.
    centroids: float64 [2^bits], ascending, symmetric about 0.
    boundaries: float64 [2^bits - 1], midpoints of neighbours.
    """

    def __init__(self, d: int, bits: int) -> None:
        if not isinstance(bits, int) or bits not in (1, 2, 3, 4, 8):
            raise InvalidError(f"bits is {bits!r}, expected 1, 2, 3, 4 or 8")
        if not isinstance(d, int) or not 1 <= d <= 65536:
            raise InvalidError(f"d is {d!r}, expected 1 to 65536")
        self.d = d
        self.bits = bits
        self.centroids = torch.empty(1 << bits, dtype=torch.float64)
        self.boundaries = torch.empty((1 << bits) - 1, dtype=torch.float64)
        mse = ctypes.c_double()
        check(
            lib.quash_codebook(
                d, bits, self.centroids.data_ptr(), self.boundaries.data_ptr(), ctypes.byref(mse)
            )
        )
        self._mse = mse.value

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Indices of the nearest centroids: uint8, of the shape of `values`."""
        return torch.bucketize(values.detach().double(), self.boundaries).to(torch.uint8)

    def dequantize(self, indices: torch.Tensor) -> torch.Tensor:
        """Centroids of integers below 2^bits: float32, of the shape of `indices`."""
        return self.centroids[indices.long()].float()

    def mse_cost(self) -> float:
        """Expected squared error of a whole unit vector."""
        return self._mse

    def __repr__(self) -> str:
        return f"Codebook(d={self.d}, bits={self.bits}, mse_cost={self._mse:.6g})"


@functools.lru_cache(maxsize=256)
def get_codebook(d: int, bits: int) -> Codebook:
    """The codebook of dimension d (1..65536) and bits (1, 2, 3, 4 or 8), kept for
    later calls: do not change its tensors. InvalidError, a ValueError, otherwise."""
    return Codebook(d, bits)


def solve_lloyd_max(
    d: int, bits: int, use_exact_pdf: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """(centroids [2^bits], boundaries [2^bits - 1]), float64.

    use_exact_pdf: True for the density of a coordinate of the sphere in R^d;
        False for its limit, a normal density of variance 1 / d.
    """
    if use_exact_pdf:
        codebook = get_codebook(d, bits)
        return codebook.centroids.clone(), codebook.boundaries.clone()
    # At the largest dimension the sphere's density is normal to 2^-16.
    largest = get_codebook(65536, bits)
    if not isinstance(d, int) or d < 1:
        raise InvalidError(f"d is {d!r}, expected 1 to 65536")
    scale = (65536 / d) ** 0.5
    return largest.centroids * scale, largest.boundaries * scale


def compute_mse_cost(d: int, bits: int) -> float:
    """Expected squared error of a unit vector of R^d at `bits` per coordinate."""
    return get_codebook(d, bits).mse_cost()

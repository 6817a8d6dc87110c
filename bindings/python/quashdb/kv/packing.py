"""Codes of 1, 2, 3, 4 or 8 bits packed into bytes, without loss for every d."""

from __future__ import annotations

import torch

from quashdb.kv import _tensors
from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError, check

_BITS = (1, 2, 3, 4, 8)


def _check_bits(bits: int) -> None:
    if bits not in _BITS:
        raise InvalidError(f"bits is {bits!r}, expected 1, 2, 3, 4 or 8")


def packed_size(d: int, bits: int) -> int:
    """Bytes of d codes: ceil(d * bits / 8). InvalidError, a ValueError, on bits
    other than 1, 2, 3, 4 and 8."""
    _check_bits(bits)
    if d < 1:
        raise InvalidError(f"d is {d}, expected 1 or more")
    return int(lib.quash_packed_size(d, bits))


def pack_bits(indices: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs the last dimension as a little-endian bit string.

    indices: integers [..., d] below 2^bits (InvalidError otherwise).
    Returns uint8 [..., packed_size(d, bits)].
    """
    _check_bits(bits)
    shape = _tensors.checked(indices, "indices").shape
    if len(shape) == 0:
        raise InvalidError("indices has no dimensions, expected [..., d]")
    codes = _tensors.bytes_of(indices, shape[-1], "indices")
    size = packed_size(shape[-1], bits)
    if codes.numel() and int(codes.max()) >> bits:
        raise InvalidError(f"an index is {int(codes.max())}, expected less than {1 << bits}")
    packed = torch.empty(len(codes), size, dtype=torch.uint8)
    check(lib.quash_pack_bits(codes.data_ptr(), len(codes), shape[-1], bits, packed.data_ptr()))
    return packed.reshape(*shape[:-1], size)


def unpack_bits(packed: torch.Tensor, bits: int, d: int) -> torch.Tensor:
    """The inverse of pack_bits.

    packed: uint8 [..., packed_size(d, bits)]. Returns uint8 [..., d].
    """
    size = packed_size(d, bits)
    shape = _tensors.checked(packed, "packed").shape
    data = _tensors.bytes_of(packed, size, "packed")
    codes = torch.empty(len(data), d, dtype=torch.uint8)
    check(lib.quash_unpack_bits(data.data_ptr(), len(data), d, bits, codes.data_ptr()))
    return codes.reshape(*shape[:-1], d)

"""What theory promises for unit vectors (TurboQuant, arXiv 2504.19874)."""

from __future__ import annotations

import math

# E|x - decompress(compress(x))|^2 at 1 to 4 bits as d grows: Lloyd-Max for a
# normal coordinate.
LLOYD_MAX_MSE: dict[int, float] = {1: 0.363380, 2: 0.117482, 3: 0.0345477, 4: 0.0095010}


def mse_upper_bound(bits: float) -> float:
    """Theorem 1: the MSE of the MSE quantizer is at most sqrt(3) pi / 2 / 4^bits."""
    return math.sqrt(3) * math.pi / 2 * 4.0**-bits


def mse_lower_bound(bits: float) -> float:
    """Theorem 3: no quantizer does better than 4^-bits on every unit vector."""
    return 4.0**-bits


def ip_upper_bound(d: int, bits: float, query_norm_sq: float = 1.0) -> float:
    """Theorem 2: E(<q, x> - estimate)^2 of the inner-product quantizer is at most
    sqrt(3) pi^2 |q|^2 / (d 4^bits)."""
    return math.sqrt(3) * math.pi**2 * query_norm_sq / d * 4.0**-bits


def ip_lower_bound(d: int, bits: float, query_norm_sq: float = 1.0) -> float:
    """Theorem 3 for inner products: |q|^2 / (d 4^bits)."""
    return query_norm_sq / d * 4.0**-bits

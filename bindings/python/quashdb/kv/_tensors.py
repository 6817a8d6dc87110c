"""Torch tensors as the library reads and writes them."""

from __future__ import annotations

import torch

from quashdb.kv.errors import InvalidError, UnsupportedError

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # quash_kv_dtype


def check_device(device: object) -> torch.device:
    """The device, which can only be the CPU."""
    checked = torch.device("cpu" if device is None else device)  # type: ignore[call-overload]
    if checked.type != "cpu":
        raise UnsupportedError(f"device is '{checked}', and this build works in host memory: 'cpu'")
    return checked


def checked(tensor: object, name: str) -> torch.Tensor:
    """A strided tensor on the CPU, without its gradient."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is {type(tensor).__name__}, expected a torch.Tensor")
    check_device(tensor.device)
    if tensor.layout != torch.strided:
        raise InvalidError(f"{name} is {tensor.layout}, expected a dense tensor")
    return tensor.detach()


def rows(tensor: object, dim: int, name: str) -> torch.Tensor:
    """Any [..., dim] numbers as contiguous float32 [n, dim]."""
    matrix = checked(tensor, name)
    if matrix.ndim == 0 or matrix.shape[-1] != dim:
        raise InvalidError(f"{name} has shape {list(matrix.shape)}, expected [..., {dim}]")
    if matrix.dtype == torch.bool or matrix.is_complex():
        raise InvalidError(f"{name} is {matrix.dtype}, expected real numbers")
    return matrix.reshape(-1, dim).to(torch.float32).contiguous()


def bytes_of(tensor: object, width: int, name: str) -> torch.Tensor:
    """[..., width] small non-negative integers as contiguous uint8 [n, width]."""
    matrix = checked(tensor, name)
    if matrix.ndim == 0 or matrix.shape[-1] != width:
        raise InvalidError(f"{name} has shape {list(matrix.shape)}, expected [..., {width}]")
    if matrix.dtype.is_floating_point or matrix.is_complex():
        raise InvalidError(f"{name} is {matrix.dtype}, expected integers")
    if matrix.dtype not in (torch.uint8, torch.bool) and matrix.numel():
        low, high = int(matrix.min()), int(matrix.max())
        if low < 0 or high > 255:
            raise InvalidError(f"{name} has values {low} to {high}, expected 0 to 255")
    return matrix.reshape(-1, width).to(torch.uint8).contiguous()


def same_batch(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise InvalidError(f"{name} has shape {list(tensor.shape)}, expected {list(expected)}")

"""Tokens of a layer kept as given, while they are so few that SDPA over them is faster
than attention over packed pages."""

from __future__ import annotations

import torch


class GivenTokens:
    """Keys and values [batch, heads, positions, head_dim] of one layer, padding included,
    in buffers that grow by doubling up to `most` positions. Any device and dtype."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = 0
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return self._length

    def fits(self, positions: int) -> bool:
        """Whether there is room for so many more."""
        return self._length + positions <= self._most

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copies [batch, heads, n, head_dim], which must fit."""
        end = self._length + keys.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            room = min(max(2 * end, 256), self._most)
            shape = (*keys.shape[:2], room, keys.shape[3])
            # As later appends may be outside of inference mode.
            with torch.inference_mode(False):
                keys_room = torch.zeros(shape, dtype=keys.dtype, device=keys.device)
                grown = keys_room, torch.zeros_like(keys_room)
            if self._buffers is not None:
                for new, old in zip(grown, self.tokens(), strict=True):
                    new[:, :, : self._length] = old
            self._buffers = grown
        for buffer, rows in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, self._length : end] = rows
        self._length = end

    def tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values), views, valid until the next append()."""
        assert self._buffers is not None, "append() comes first"
        keys, values = self._buffers
        return keys[:, :, : self._length], values[:, :, : self._length]

    def crop(self, positions: int) -> None:
        self._length = min(self._length, positions)

    def select(self, rows: torch.Tensor) -> GivenTokens:
        """A copy whose sequence i is that of rows[i]. Of more sequences, fewer positions fit."""
        copy = GivenTokens(self._most)
        copy._length = self._length
        if self._buffers is not None:
            copy._most = self._most * self._buffers[0].shape[0] // len(rows)
            with torch.inference_mode(False):
                keys, values = (buffer.index_select(0, rows) for buffer in self._buffers)
            copy._buffers = keys, values
        return copy

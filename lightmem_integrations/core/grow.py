"""Arrays that grow at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class Grow:
    """A numpy array with room to spare, so that appending is cheap on average.

    Args:
        dtype: of the elements.
        width: columns of each row; None for a flat array.
        expected: rows to make room for.
    """

    def __init__(self, dtype: DTypeLike, width: int | None = None, expected: int = 0) -> None:
        self._data: NDArray[Any] = np.empty((expected,) if width is None else (expected, width), dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> NDArray[Any]:
        """The filled part, without a copy; valid until the next ``extend``."""
        return self._data[: self._length]

    def extend(self, rows: ArrayLike) -> None:
        """Append rows."""
        added = np.asarray(rows, self._data.dtype)
        needed = self._length + len(added)
        if needed > len(self._data):
            capacity = max(needed, self._length * 5 // 4)  # a quarter to spare, nothing at first
            bigger = np.empty((capacity, *self._data.shape[1:]), self._data.dtype)
            bigger[: self._length] = self.view
            self._data = bigger
        self._data[self._length : needed] = added
        self._length = needed

    @property
    def nbytes(self) -> int:
        """Bytes held, the spare room included."""
        return int(self._data.nbytes)

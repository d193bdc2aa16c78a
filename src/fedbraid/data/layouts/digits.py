"""scikit-learn's copy of the UCI digits: 1,797 grey images of 8x8 pixels."""

from __future__ import annotations

import numpy as np

from fedbraid.data.rows import Rows, Splits, natural
from fedbraid.data.sampling import held_out


def digits() -> Splits:
    """The digits, 0..16 scaled to 0..255, with a fixed stratified split of 80 to 20."""
    from sklearn.datasets import load_digits

    flat, target = load_digits(return_X_y=True)
    pixels = (np.asarray(flat) * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    rows = Rows.of(zip(pixels, map(str, target), strict=True), "digits")
    train, test = held_out(rows.labels, 0.2, seed=0)
    return Splits(rows.take(train), rows.take(test), tuple(natural(set(rows.labels))))

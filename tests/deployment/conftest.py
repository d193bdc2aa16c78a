"""Data of a small federation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_federations import HOLDS, write


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a site, `server` with test samples alone, `union` with everything."""
    folder = tmp_path_factory.mktemp("data")
    images, labels = load_digits(return_X_y=True)
    rows = {label: np.flatnonzero(labels == label).tolist() for label in range(6)}
    tests = [row for label in range(6) for row in rows[label][:4]]
    own = {
        site: [row for label in classes for row in rows[label][4 + 6 * number :][:6]]
        for number, (site, classes) in enumerate(HOLDS.items())
    }
    everything = [(row, site) for site, held in own.items() for row in held]
    for site, held in own.items():
        write(folder / site / "train.csv", images, labels, [(row, "") for row in held])
    for number, site in enumerate(HOLDS):
        write(folder / f"{site}-tested" / "train.csv", images, labels, [(row, "") for row in own[site]])
        write(folder / f"{site}-tested" / "test.csv", images, labels, [(row, "") for row in tests[number::2]])
    write(folder / "server" / "test.csv", images, labels, [(row, "") for row in tests])
    write(folder / "union" / "train.csv", images, labels, everything, client=True)
    write(folder / "union" / "test.csv", images, labels, [(row, "nobody") for row in tests], client=True)
    return folder

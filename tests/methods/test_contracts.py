"""Every method keeps the public contract, in all of its modalities and with all of its adapters."""

from typing import Any

import pytest

from fedbraid.methods import METHODS
from fedbraid.testing import check_method

SMALL: dict[str, dict[str, Any]] = {
    "ranpac_fed": {"features": 40},
    "stsa": {"features": 40},
    "ccvr": {"samples": 8, "epochs": 1},
    "derpp": {"buffer": 6, "batch": 4},
    "ewc": {"samples": 4},
    "fisheravg": {"samples": 4},
    "coda_prompt": {"components": 3},
    "target": {"steps": 2, "generator_batch": 4, "images": 3, "batch": 4},
}
CASES = [(name, adapter) for name, options in METHODS.items() for adapter in options.about.adapters]


@pytest.mark.parametrize(("name", "adapter"), CASES)
def test_it_keeps_the_contract(name: str, adapter: str) -> None:
    check_method(METHODS[name](**SMALL.get(name, {})), adapter=adapter)

"""Low-rank factors of every client, kept apart: a sum over disjoint names.

    client/<id>/count, client/<id>/lora_B/<layer>, client/<id>/lora_A/<layer>

What needs the factors one by one (an exact residual, a stack) reads them here. It is a sum, so nothing else of a round
changes, but not one that hides who sent what: it cannot be computed under a secure sum. An update says whose it is by
the name of the tensor `client/<id>`.
"""

from __future__ import annotations

from urllib.parse import quote

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, prefix, select
from fedbraid.low_rank import Factors
from fedbraid.quantities import SAMPLES, VALUE, own

CLIENT = "client"
FACTORS = ("lora_A", "lora_B")
GIVES = own({"count": SAMPLES, **dict.fromkeys(FACTORS, VALUE)})


def signature(client: str) -> dict[str, Tensor]:
    """What an update carries to say whose it is; a slash in an id would make it look like another's."""
    return {f"{CLIENT}/{quote(client, safe='')}": torch.ones((), dtype=torch.float64)}


def lift(update: Tensors) -> Statistic:
    """The update's factors under the name of its sender."""
    (client,) = select(update, CLIENT)
    factors = {key: value for key, value in update.items() if key.split("/", 1)[0] in (*FACTORS, "count")}
    return Statistic(prefix(factors, f"{CLIENT}/{client}"))


def weights(total: Tensors) -> Tensor:
    """(K,) the share of samples of every client, in the order of their ids."""
    counts = torch.stack([total[f"{CLIENT}/{client}/count"] for client in _clients(total)])
    return counts / counts.sum()


def factors(total: Tensors, layer: str) -> list[Factors]:
    """(B_i, A_i) of every client, in the order of their ids."""
    sent = [f"{CLIENT}/{client}" for client in _clients(total)]
    return [(total[f"{one}/lora_B/{layer}"], total[f"{one}/lora_A/{layer}"]) for one in sent]


def layers(total: Tensors) -> list[str]:
    """The layers of which factors were sent."""
    first = _clients(total)[0]
    return list(select(total, f"{CLIENT}/{first}/lora_B"))


def _clients(total: Tensors) -> list[str]:
    return sorted(key.split("/")[1] for key in total if key.startswith(f"{CLIENT}/") and key.endswith("/count"))

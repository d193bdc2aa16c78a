"""Class prototypes of many clients as one, by how near each lies to the features of all.

Guo et al., PILoRA: Prototype Guided Incremental LoRA for Federated Class-Incremental Learning, ECCV 2024
(arXiv 2401.02094). For one class, over the clients i, j that have samples of it,

    d_i = sum_j |m_i - mu_j|                    m_i the prototype of client i, mu_j the mean feature of client j
    c_i = (1 / d_i - min) / (max - min)         over the clients; zero where all are equally near
    m*  = sum_i m_i softmax(c / temperature)_i

Every distance needs one client's prototype and another's mean, so this is no sum: it needs the rows of every client.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reweighted(prototypes: Tensor, means: Tensor, held: Tensor, *, temperature: float) -> Tensor:
    """(classes, width): the prototype of every class, and zero for a class that no client has.

    `prototypes` and `means` are (clients, classes, width); `held` (clients, classes) says who has samples of what.
    """
    weights = closeness_weights(prototypes, means, held, temperature=temperature)
    return torch.einsum("kc,kcd->cd", weights, prototypes)


def closeness_weights(prototypes: Tensor, means: Tensor, held: Tensor, *, temperature: float) -> Tensor:
    """(clients, classes): what each client weighs; the weights of a class add up to one, or all are zero."""
    apart = torch.cdist(prototypes.transpose(0, 1), means.transpose(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
    distance = (apart * held.T[:, None, :]).sum(2).T
    # A prototype that lies on every mean has distance zero; the floor keeps its reciprocal finite.
    near = distance.clamp_min(torch.finfo(distance.dtype).tiny ** 0.5).reciprocal()
    least = near.masked_fill(~held, torch.inf).amin(0)
    most = near.masked_fill(~held, -torch.inf).amax(0)
    place = torch.where(held & (most > least), (near - least) / (most - least), 0.0)
    return torch.where(held, (place / temperature).masked_fill(~held, -torch.inf).softmax(0), 0.0)

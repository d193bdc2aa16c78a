import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toydata import toy_dataset

from fedbraid.data import make_partition, make_stream
from fedbraid.errors import UserError

CLASSES, EACH = 6, 40
DATA = toy_dataset([c for c in range(CLASSES) for _ in range(EACH)])
STREAM = make_stream(CLASSES, tasks=3, order="random", seed=1)


def table(partition, data=DATA) -> np.ndarray:
    """(clients, classes): how many samples of each class each client holds."""
    labels = data.train.labels.numpy()
    counts = [np.bincount(labels[list(held)], minlength=CLASSES) for held in partition.clients.values()]
    return np.stack(counts)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["dirichlet", "quantity", "iid"]), st.integers(2, 6), st.integers(0, 10**6))
def test_every_sample_has_one_owner(kind, clients, seed):
    partition = make_partition(DATA, STREAM, kind=kind, clients=clients, min_samples=1, seed=seed)
    held = [index for indices in partition.clients.values() for index in indices]
    assert sorted(held) == list(range(CLASSES * EACH))
    assert all(list(indices) == sorted(indices) for indices in partition.clients.values())


@pytest.mark.parametrize("kind", ["dirichlet", "quantity", "iid"])
def test_a_partition_is_a_function_of_the_seed(kind):
    drawn = [make_partition(DATA, STREAM, kind=kind, clients=4, seed=seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    make_partition(DATA, STREAM, kind="dirichlet", clients=4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_ids_are_padded_to_equal_length():
    assert list(make_partition(DATA, STREAM, kind="iid", clients=10).clients) == list("0123456789")
    ids = list(make_partition(DATA, STREAM, kind="iid", clients=11).clients)
    assert (ids[0], ids[-1]) == ("00", "10")
    assert ids == sorted(ids)


def test_iid_shares_differ_by_one_in_a_task():
    data = toy_dataset([0, 0, 0, 1, 1, 1, 1])
    partition = make_partition(data, make_stream(2), kind="iid", clients=3)
    assert sorted(map(len, partition.clients.values())) == [2, 2, 3]


def test_iid_draws_do_not_follow_the_order_of_the_data():
    data = toy_dataset([0, 1] * 100)
    counts = table(make_partition(data, make_stream(2), kind="iid", clients=2), data)[:, :2]
    assert (counts.sum(1) == 100).all()
    assert 30 < counts.min() <= counts.max() < 70


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_leaves_no_client_with_too_few_samples_of_a_task(seed):
    counts = table(make_partition(DATA, STREAM, kind="dirichlet", clients=4, beta=0.3, min_samples=6, seed=seed))
    for task in STREAM.tasks:
        assert counts[:, [STREAM.order[c] for c in task.classes]].sum(1).min() >= 6


def test_dirichlet_draws_have_the_moments_of_the_law():
    """A client's share of a class: mean 1/K, variance (K - 1) / (K^2 (K beta + 1)), without the condition."""
    data = toy_dataset([c for c in range(6) for _ in range(2000)])
    shares = np.concatenate(
        [
            table(make_partition(data, make_stream(6), kind="dirichlet", clients=4, min_samples=0, seed=s), data) / 2000
            for s in range(40)
        ]
    ).ravel()
    assert shares.mean() == pytest.approx(1 / 4)
    assert shares.var() == pytest.approx(3 / (16 * (4 * 0.5 + 1)), rel=0.15)


def test_a_large_beta_is_nearly_iid_and_a_small_one_is_not():
    spread = {
        beta: table(make_partition(DATA, STREAM, kind="dirichlet", clients=4, beta=beta, min_samples=1)).std()
        for beta in (0.1, 1e6)
    }
    assert spread[1e6] < 5 < spread[0.1]


@pytest.mark.parametrize("alpha", [1, 2])
def test_quantity_gives_alpha_classes_a_task_evenly_spread(alpha):
    counts = table(make_partition(DATA, STREAM, kind="quantity", clients=5, alpha=alpha, seed=2))
    for task in STREAM.tasks:
        own = counts[:, [STREAM.order[c] for c in task.classes]]
        assert ((own > 0).sum(1) == alpha).all()
        for column in own.T:
            assert column[column > 0].max() - column[column > 0].min() <= 1


@pytest.mark.parametrize(("alpha", "clients"), [(1, 15), (1, 17), (2, 8)])
def test_where_chance_would_hardly_cover_all_classes_they_are_dealt(alpha, clients):
    data, stream = toy_dataset([label for label in range(15) for _ in range(20)]), make_stream(15, tasks=1)
    partition = make_partition(data, stream, kind="quantity", clients=clients, alpha=alpha)
    owned = [{index // 20 for index in indices} for indices in partition.clients.values()]
    assert {len(classes) for classes in owned} == {alpha}
    assert set.union(*owned) == set(range(15))


def test_natural_clients_are_those_of_the_data():
    data = toy_dataset([0, 0, 1, 1], clients=["b", "a", "b", "b"])
    partition = make_partition(data, make_stream(2), kind="natural")
    assert dict(partition.clients) == {"a": (1,), "b": (0, 2, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "random"}, "partition.kind is 'random'"),
        ({"kind": "natural"}, "data.client_column"),
        ({"kind": "iid", "clients": 241}, "240 training samples"),
        ({"kind": "iid", "clients": 0}, "partition.clients is 0"),
        ({"kind": "iid", "clients": 100}, "get no sample in any task"),
        ({"kind": "dirichlet", "beta": 0.0}, "partition.beta is 0"),
        ({"kind": "dirichlet", "clients": 14}, "task 0 has 80 samples.*partition.min_samples = 6"),
        ({"kind": "dirichlet", "clients": 13, "beta": 0.001}, "task 0: in 1000 draws.*partition.min_samples"),
        ({"kind": "quantity", "alpha": 3}, "task 0 has 2 classes"),
        ({"kind": "quantity", "alpha": 1, "clients": 1}, "own 1 at most"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        make_partition(DATA, STREAM, **options)


def test_a_task_without_samples_is_refused():
    with pytest.raises(UserError, match="task 1 has no training samples"):
        make_partition(DATA, make_stream(12, tasks=2), kind="iid", clients=2)


def test_the_evaluators_name_is_taken():
    data = toy_dataset([0, 1], clients=["a", "test"])
    with pytest.raises(UserError, match="evaluator"):
        make_partition(data, make_stream(2), kind="natural")

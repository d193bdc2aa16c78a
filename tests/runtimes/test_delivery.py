"""Only what is new is sent, also after a resume; a client that applies the news holds what was published."""

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedbraid.runtimes.delivery import Delivery, News


def resumed(delivery: Delivery) -> Delivery:
    return Delivery(json.loads(json.dumps(delivery.memory())))


def shared(**values: float) -> dict[str, Tensor]:
    return {key: torch.full((2, 3), float(value)) for key, value in values.items()}


def sent(delivery: Delivery, client: str) -> set[str]:
    return set(delivery.news(client).send)


NOTHING = News((), (), ())


def test_a_client_gets_what_it_does_not_have() -> None:
    delivery = Delivery()
    delivery.publish(shared(a=1, b=2))
    assert sent(delivery, "x") == {"a", "b"}
    assert delivery.news("x") == NOTHING
    delivery.publish(shared(a=1, b=3, c=4))
    assert sent(delivery, "x") == {"b", "c"}
    assert sent(delivery, "y") == {"a", "b", "c"}  # the first message to this one
    delivery.publish(shared(a=1, b=3, c=4))
    assert delivery.news("x") == NOTHING
    delivery.publish(shared(a=5, b=3, c=4))
    delivery.publish(shared(a=5, b=6, c=4))  # a client that was away for two rounds
    assert sent(delivery, "y") == {"a", "b"}


def test_what_only_changes_its_name_is_not_sent_again() -> None:
    """A finished task's factors move to another name: nothing but the name travels."""
    delivery = Delivery()
    delivery.publish(shared(lora=1, head=2))
    delivery.news("x")
    delivery.publish({"task/0/lora": shared(lora=1)["lora"], **shared(lora=3, head=2)})
    news = delivery.news("x")
    assert news.send == ("lora",)
    assert [name for name, _ in news.same] == ["task/0/lora"]
    assert sent(delivery, "new") == {"task/0/lora", "lora", "head"}


def test_of_equal_contents_one_is_sent() -> None:
    delivery = Delivery()
    delivery.publish(shared(a=0, b=0, c=1))
    news = delivery.news("x")
    assert len(news.send) == 2
    assert len(news.same) == 1
    assert {*news.send, news.same[0][0]} == {"a", "b", "c"}


def test_the_order_of_the_tensors_does_not_matter() -> None:
    forward, backward = Delivery(), Delivery()
    values = shared(a=0, bb=0, ccc=1, dddd=1)
    forward.publish(values)
    backward.publish(dict(reversed(values.items())))
    assert forward.news("x") == backward.news("x")
    assert json.dumps(forward.memory()) == json.dumps(backward.memory())


def test_what_is_gone_is_told() -> None:
    delivery = Delivery()
    delivery.publish(shared(a=1, b=2))
    delivery.news("x")
    delivery.publish(shared(a=1))
    assert delivery.news("new").gone == ()
    assert delivery.news("x") == News((), (), ("b",))
    assert delivery.news("x") == NOTHING


def test_a_value_that_comes_back_is_sent_again() -> None:
    delivery = Delivery()
    for value in (1, 2, 1):
        delivery.publish(shared(a=value))
        assert delivery.news("x").send == ("a",)
    delivery.publish({})
    assert delivery.news("x").gone == ("a",)
    delivery.publish(shared(a=1))
    assert delivery.news("x").send == ("a",)


def test_dtype_shape_and_single_numbers_count_as_changes() -> None:
    delivery = Delivery()
    forms = [
        torch.zeros(2, 3),
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.tensor(0.0),
        torch.tensor(1.0),
        torch.tensor(1),
        torch.zeros(0, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor([-0.0]),
        torch.tensor([0.0]),
        torch.tensor([True]),
    ]
    for form in forms:
        delivery.publish({"a": form})
        assert delivery.news("x").send == ("a",), form
        delivery.publish({"a": form.clone()})
        assert delivery.news("x") == NOTHING, form


class Receiver:
    """A client that keeps tensors by name and does what the news says."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, Tensor]] = {}
        self.last = -1

    def receive(self, news: News, published: dict[str, Tensor], digests: dict[str, str]) -> None:
        new = {key: (digests[key], published[key]) for key in news.send}
        contents = dict([*self.held.values(), *new.values()])
        new |= {key: (digest, contents[digest]) for key, digest in news.same}  # fails where it was not held
        self.held = {key: value for key, value in self.held.items() if key not in news.gone} | new


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), max_size=4),
        st.lists(st.sampled_from("xyz"), max_size=3, unique=True),
        st.booleans(),
    ),
    max_size=10,
)


@given(STEPS)
@settings(max_examples=300)
def test_every_client_ends_with_the_shared_tensors(steps: list[tuple[dict[str, int], list[str], bool]]) -> None:
    """Whoever was away for however long, and whenever the server was resumed."""
    delivery, plain = Delivery(), Delivery()
    clients = {client: Receiver() for client in "xyz"}
    for number, (values, cohort, stop) in enumerate(steps):
        now = shared(**values)
        for server in (delivery, plain):
            server.publish(now)
        digests = {key: entry[0] for key, entry in delivery.memory()["entries"].items()}
        for client in cohort:
            news = delivery.news(client)
            assert news == plain.news(client)
            before = {digest for digest, _ in clients[client].held.values()}
            if clients[client].last == number - 1:
                assert not before & {digests[key] for key in news.send}  # nothing that it has
            clients[client].last = number
            clients[client].receive(news, now, digests)
            assert set(clients[client].held) == set(now)
            assert all(torch.equal(clients[client].held[key][1], now[key]) for key in now)
        if stop:
            delivery = resumed(delivery)
            assert delivery.memory() == plain.memory()


def test_a_memory_that_was_taken_stays_as_it_was() -> None:
    delivery = Delivery()
    delivery.publish(shared(a=1))
    memory = delivery.memory()
    before = json.dumps(memory)
    delivery.news("x")
    delivery.publish(shared(b=2))
    assert json.dumps(memory) == before
    other = Delivery(memory)
    other.news("z")
    assert json.dumps(memory) == before

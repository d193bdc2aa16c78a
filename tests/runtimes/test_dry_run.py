"""The schema of an update, found on noise: that of every honest update, for every method, client and round."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Model, Round
from fedbraid.errors import RunError, UserError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.phases import Measure, Measured
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.dry_run import Noise, UpdateSchema, dry_run
from fedbraid.testing import World, image_world, language_world, random_bert, random_llama, text_world
from fedbraid.testing.replay import is_update, recorded

PLAN = Training(epochs=1, batch_size=16, lr=1e-3, augment=True)
SMALL: dict[str, dict[str, Any]] = {
    "ranpac_fed": {"features": 20},
    "stsa": {"features": 20},
    "ccvr": {"samples": 8, "epochs": 1},
    "derpp": {"buffer": 6, "batch": 4},
    "ewc": {"samples": 4},
    "fisheravg": {"samples": 4},
    "coda_prompt": {"components": 3},
    "target": {"steps": 2, "generator_batch": 4, "images": 3, "batch": 4},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Work, World]]:
    """(work, world) of a method in the world of a modality, with two blocks of its first adapter."""
    folder: Path = tmp_path_factory.mktemp("models")
    paths = {"text": random_bert(folder / "text"), "language": random_llama(folder / "language")}

    def make_work(
        name: str, modality: str = "image", side: Literal["server", "client"] = "server", **setting: Any
    ) -> tuple[Work, World]:
        options = METHODS[name](**SMALL.get(name, {}))
        adapter = options.adapter(Adapter(options.about.adapters[0], rank=2, blocks="0-1"))
        joined = options.about.centralised
        world = {
            "image": lambda: image_world(joined=joined),
            "text": lambda: text_world(paths["text"], joined=joined),
            "language": lambda: language_world(paths["language"], joined=joined),
        }[modality]()
        method = make(options, Setting(adapter, PLAN, 2, **world.learned, **setting))
        return Work(method, world.model(adapter), Codec(), side), world

    return make_work


def forms(work: Work, payload: bytes) -> dict[str, Any]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in work.codec.decode(payload).tensors.items()}


def check(work: Work, world: World) -> int:
    """Compares every update of a run with its own dry run and with that of another client; how many there were."""
    count = 0
    for was in recorded(work, world):
        first = dry_run(work, min(was.answers), was.received, was.round)
        for client, payload in was.answers.items():
            if is_update(work, payload):
                found = forms(work, payload)
                assert dict(dry_run(work, client, was.received, was.round).tensors) == found, (was.round, client)
                assert dict(first.of(client).tensors) == found, (was.round, client)
                count += 1
    return count


@pytest.mark.parametrize("name", METHODS)
def test_the_schema_is_that_of_every_update(name: str, built: Callable[..., tuple[Work, World]]) -> None:
    """Images, or else whatever the method knows; `check_method` sends all adapters and modalities through the gate."""
    assert check(*built(name)) > 0


@pytest.mark.parametrize("name", ["lorm", "fedex_lora", "ties", "afl", "pilora", "fisheravg"])
def test_so_it_is_where_clients_lift(name: str, built: Callable[..., tuple[Work, World]]) -> None:
    assert check(*built(name, side="client")) > 0


@pytest.mark.parametrize(("name", "modality"), [("lorm", "text"), ("afl", "text"), ("fedit", "language")])
def test_so_it_is_for_texts(name: str, modality: str, built: Callable[..., tuple[Work, World]]) -> None:
    assert check(*built(name, modality)) > 0


def test_clients_of_other_ranks_have_other_schemas(built: Callable[..., tuple[Work, World]]) -> None:
    work, world = built("fedit", ranks={"c": 1})
    was = recorded(work, world)[0]
    whole, own = (dry_run(work, client, was.received, was.round) for client in "ac")
    assert dict(own.tensors) == forms(work, was.answers["c"]) != dict(whole.of("c").tensors)
    assert own.bytes < whole.bytes


def test_what_says_whose_it_is_is_renamed_and_nothing_else() -> None:
    kind = (torch.float32, (1,))
    names = ["head/0", "client/0", "beside/client/0/count", "client/01", "my/client/0x"]
    schema = UpdateSchema("0", dict.fromkeys(names, kind), {})
    renamed = schema.of("a/b")
    assert list(renamed.tensors) == ["head/0", "client/a%2Fb", "beside/client/a%2Fb/count", "client/01", "my/client/0x"]
    assert dict(UpdateSchema("a/b", renamed.tensors, {}).of("0").tensors) == dict(schema.tensors)


def test_it_leaves_no_trace(built: Callable[..., tuple[Work, World]]) -> None:
    work, world = built("fedit")
    was = recorded(work, world)[-1]
    before = {name: tensor.clone() for name, tensor in was.received.items()}
    generator = torch.get_rng_state()
    dry_run(work, "a", was.received, was.round)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(was.received[name], tensor) for name, tensor in before.items())


def test_one_epoch_is_enough(built: Callable[..., tuple[Work, World]]) -> None:
    work, _ = built("fedit")
    data, cpu = Noise("a", work.model, range(3, 5)), torch.device("cpu")
    draws = torch.Generator()
    passes = [sum(1 for _ in data.batches(1, device=cpu, shuffle=draws)) for _ in range(3)]
    assert passes == [2, 0, 0]
    assert [sum(1 for _ in data.batches(2, device=cpu)) for _ in range(2)] == [1, 1]
    [batch] = data.batches(9, device=cpu)
    assert batch.labels.tolist() == [3, 4]


@pytest.mark.parametrize(("error", "kind"), [(AttributeError, RunError), (RunError, RunError), (UserError, UserError)])
def test_a_step_that_needs_true_samples_says_so(
    error: type[Exception], kind: type[Exception], built: Callable[..., tuple[Work, World]]
) -> None:
    def broken(_model: Model, _shared: Tensors, _data: Data, _round: Round) -> Tensors:
        raise error("no such thing")

    work, world = built("afl")
    work = replace(work, method=replace(work.method, phases={"ridge": Measure(Measured(broken, {}))}))
    message = "set gate.check = false" if kind is RunError else "^no such thing$"
    with pytest.raises(kind, match=message):
        dry_run(work, "a", {}, Round(world.tasks[0], "ridge", 0, 0))

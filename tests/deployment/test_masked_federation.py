"""Masked sums between sites of a federation: signed by keys of their own, on terms that each site sets for itself."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import SMALL, federation, grid_of

from fedbraid import config, runs
from fedbraid.algebra import ZERO, Tensors
from fedbraid.core import Round, State, Task
from fedbraid.deployment import faults, handshake
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.handshake import local_config
from fedbraid.deployment.serving import serve
from fedbraid.deployment.site import OwnMasking, SiteFolder, SiteTerms, read_site
from fedbraid.engine import schedule
from fedbraid.errors import RunError, StoppedRun, UserError
from fedbraid.experiment import Experiment, build
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.identity import make_identity
from fedbraid.runtimes.masked_state import SUMS
from fedbraid.runtimes.server import Rules, Server

SITES = ("east", "north", "south")

pytestmark = pytest.mark.usefixtures("identity")


def nothing(_text: str) -> None:
    """What a run says goes to Flower's log otherwise."""


def made(data: Path, folder: Path, *settings: str, evaluate: str = "server"):
    """A federation of three sites in masked mode; two of them have the same data."""
    held = {"east": "north", "north": "north", "south": "south"}
    tested = "-tested" if evaluate == "sites" else ""
    sites = {name: str(data / f"{own}{tested}") for name, own in held.items()}
    return federation(folder, data, "secure.masked=true", *settings, evaluate=evaluate, sites=sites)


def write_terms(federation, site: str, table: str) -> None:
    path = federation.site(site) / "site.toml"
    path.write_text(f"{path.read_text().partition('[secure]')[0]}\n[secure]\n{table}\n")


@pytest.mark.parametrize("evaluate", ["server", "sites"])
def test_a_federation_is_summed_under_masks_that_are_signed(data: Path, tmp_path: Path, evaluate: str) -> None:
    found = made(data, tmp_path / "fed", evaluate=evaluate)
    keys = {site: make_identity(found.site(site)) for site in SITES}
    listed = "{ " + ", ".join(f'{site} = "{key}"' for site, key in keys.items()) + " }"
    found.config.write_text(found.config.read_text().replace("[secure]", f"[secure]\nidentities = {listed}"))
    for site in SITES:
        write_terms(found, site, f"identities = {listed}")
    serve(grid_of(found), found, nothing)  # pyright: ignore[reportArgumentType]
    results = runs.read_results(found.run)
    assert results["finished"]
    assert results["accuracy_matrix"]
    assert any("masked sums, threshold 3 of 3, signed by the clients" in note for note in results["notes"])


def test_a_site_refuses_a_server_that_names_other_keys(data: Path, tmp_path: Path) -> None:
    found = made(data, tmp_path / "fed")
    keys = {site: make_identity(found.site(site)) for site in SITES}
    listed = "{ " + ", ".join(f'{site} = "{key}"' for site, key in keys.items()) + " }"
    write_terms(found, "south", f"identities = {listed}")
    with pytest.raises(StoppedRun, match="client south: it does not take part in this masked sum"):
        serve(grid_of(found), found, nothing)  # pyright: ignore[reportArgumentType]
    told = faults.read(found.site("south"))["masked"]["sentence"]
    assert told.startswith("client 'south' refuses the sum: the server names other identities")


def test_what_a_site_asks_for_stands_over_what_the_server_says(tmp_path: Path) -> None:
    terms = SiteTerms(
        client="a",
        server="127.0.0.1:1",
        methods=("lorm",),
        modes=("masked",),
        backbones={"tiny": "tiny"},
        data={"name": "digits"},
        secure=OwnMasking(threshold=4),
    )
    site = SiteFolder(tmp_path, terms)

    def greeted(*settings: str):
        sent = handshake.write(config.read("", [*SMALL, *settings]), run="run", tested=False)
        return local_config(handshake.read(sent), site)

    with pytest.raises(UserError, match="this site takes part in masked sums alone"):
        greeted()
    secure = greeted("secure.masked=true", "secure.threshold=3").secure
    assert (secure.masked, secure.threshold) == (True, 4)


FOUR = {"east": "north", "north": "north", "south": "south", "west": "south"}
"""Sites by whose data they have; a lying server is after what west sends."""
OTHERS = ("east", "north", "south")
SECOND = Task(1, (0, 2, 4))
"""In a stream whose halves are exchanged it brings the classes that the first task brought."""


class Direct:
    """The sites of a federation with nothing between them and the server; every time other processes."""

    evaluators = ()

    def __init__(self, federation: Any, experiment: Experiment, run: str) -> None:
        self.clients = sorted(FOUR)
        self.sites = {name: Answering(read_site(federation.site(name))) for name in FOUR}
        for site in self.sites.values():
            site.greet(handshake.write(experiment.config, run=run, tested=False))

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for client, question in questions.items():
            try:
                yield Answer(client, self.sites[client].answer(question))
            except (RunError, UserError) as error:
                yield Answer(client, fault=str(error))

    def kept(self) -> Tensors:
        return {}

    def keep(self, client: str, kept: Tensors) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("settings", "later", "why"),
    [
        ([], {}, "of this round"),
        (["training.lr=0.002"], {}, "of this round"),
        (["method.name=afl", "adapter.kind=none"], {"seed": 7}, "of the same samples"),
        (["method.name=afl", "adapter.kind=none", "training.batch_size=16"], {"index": 1}, "of the same"),
        (["method.name=afl", "adapter.kind=none", "stream.order=[2,3,0,1]"], {"task": SECOND}, "of the same samples"),
        (["method.name=afl", "adapter.kind=none", "data.classes=[2,3,0,1]"], {"task": SECOND}, "of the same samples"),
    ],
)
def test_a_site_sums_once_whatever_the_run_is_called(
    settings: list[str], later: dict[str, Any], why: str, data: Path, tmp_path: Path
) -> None:
    first = [one for one in settings if one.startswith(("method", "adapter"))]
    sites = {name: str(data / own) for name, own in FOUR.items()}
    found = federation(tmp_path / "fed", data, "secure.masked=true", *first, sites=sites)
    values = config.read(str(found.config), ["run.runtime=deployed"])
    experiment = build(values)
    state, schedule_left = State(), iter(schedule(experiment.method, experiment.tasks, 0))
    round, phase = next(schedule_left)
    while not phase.cohort(sorted(FOUR), round):  # what the server does alone
        state = phase.server_update(experiment.model, state, ZERO, round)
        round, phase = next(schedule_left)
    rules = Rules(quorum=0.5)
    outcome = Server(experiment.work, Direct(found, experiment, "one"), rules=rules).sum(
        state.shared, round, sorted(FOUR)
    )
    assert outcome.reported == tuple(sorted(FOUR))
    assert all((found.site(name) / SUMS).is_file() for name in FOUR)
    other = build(config.read(str(found.config), ["run.runtime=deployed", *settings]))
    lying = Server(other.work, Direct(found, other, "two"), rules=rules)
    with pytest.raises(StoppedRun, match=rf"0 of 3 clients sent their input.*has opened one {why}"):
        lying.sum(state.shared, replace(round, **later), OTHERS)

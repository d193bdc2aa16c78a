"""A masked sum is one sum: whatever a lying server asks honest clients for, two sums never differ by one client.

Every test is an attack. Before its refusal was built it gave the server what client 3 had sent, to the last bit or
nearly so: `stolen` is how.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from lying_servers import (
    ALL,
    MODEL,
    OTHERS,
    PRIVATE,
    PUBLIC,
    THIS_ROUND,
    VALUES,
    VICTIM,
    ByRound,
    Constant,
    Folders,
    Memory,
    OverFlower,
    Split,
    assert_all,
    at,
    naming,
    refused,
    stolen,
    summed,
    truth,
    work_of,
)

from fedbraid.core import Round, Task
from fedbraid.errors import RunError
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.delivery import digest_of, digest_of_all
from fedbraid.runtimes.exchange import read_round, spell
from fedbraid.runtimes.masked_client import INPUT
from fedbraid.runtimes.masked_state import STATE, SUMS, OnDisk
from fedbraid.testing.numbers import SHARED, holders, squares
from fedbraid.testing.sites import Sites

STEPS = ("keys", "shares", INPUT, "confirmation", "reveal")
Parties = Callable[..., Any]


@pytest.fixture(params=["memory", "sites", "flower"])
def parties(request: pytest.FixtureRequest, tmp_path: Path) -> Parties:
    """The same honest clients whenever they are called for, whatever the run is called."""
    if request.param == "flower":
        pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
        request.getfixturevalue("identity")
    held: dict[str, Memory] = {}

    def called(work: Work, *, run: str = "", values: Mapping[str, Sequence[float]] = VALUES) -> Any:
        clients: Any = holders({client: tuple(numbers) for client, numbers in values.items()})
        signed = PRIVATE if work.masking and work.masking.identities else {}
        if request.param != "memory":
            behind = Folders if request.param == "sites" else OverFlower
            return behind(work, clients, {}, tmp_path, run=run, identities=signed)
        found = held.setdefault("", Memory(work, clients, {}, identities=signed))
        found._work, found._parties, found.lie, found.works = work, clients, truth, {}
        return found

    return called


def test_what_two_sums_would_disclose_is_what_the_client_sent() -> None:
    first, second = (summed(Memory(work_of(), holders(VALUES), {}, identities=PRIVATE), at(), c) for c in (ALL, OTHERS))
    one, other = VALUES[VICTIM]
    assert stolen(first, second) == {"count": 2, "sum": 2 * (one + other), "squares": 4 * (one**2 + other**2)}


def test_no_step_is_of_another_round(parties: Parties) -> None:
    """1.4: the input step alone named the first round, so that clients computed its statistic once more."""
    summed(parties(work_of()), at(0))
    for step in STEPS:
        lying = parties(work_of())
        lying.lie = naming(at(0), step)
        said = (
            "its terms are those of another round" if step == "keys" else f"the step '{step}': it names another round"
        )
        reasons = refused(lying, at(1), OTHERS)
        assert_all(reasons, said)


def test_nothing_is_forgotten_after_many_sums(parties: Parties) -> None:
    """1.5: sixteen other sums, and clients had forgotten the first."""
    summed(parties(work_of()), at(0))
    for index in range(1, 18):
        summed(parties(work_of()), at(index))
    assert_all(refused(parties(work_of()), at(0), OTHERS), f"{THIS_ROUND} (missing now: '3')")


def test_another_name_of_the_run_is_no_other_sum(parties: Parties) -> None:
    """1.6: what clients remembered lay in the folder of the run."""
    summed(parties(work_of(), run="first"), at(), run="first")
    assert_all(refused(parties(work_of(), run="second"), at(), OTHERS, run="second"), THIS_ROUND)


@pytest.mark.parametrize("round", [at(1), at(0, task=1), at(seed=1)], ids=str)
@pytest.mark.parametrize("terms", ["", "another configuration"])
def test_the_same_statistic_is_summed_with_the_same_clients(round: Round, terms: str, parties: Parties) -> None:
    """1.7: what does not depend on the round could be had of any two, in one run or in several."""
    summed(parties(work_of(Constant())), at())
    other = parties(work_of(Constant(), terms=terms), run="second")
    reasons = refused(other, round, OTHERS, run="second")
    assert_all(reasons, "it has opened one of the same statistic (task 0, train round 0, seed 0) before, with other")


@pytest.mark.parametrize(
    "round",
    [at(1), at(seed=1), Round(Task(1, (0, 0, 2)), "train", 0, 1), Round(Task(0, (0, 4)), "train", 1, 0)],
    ids=str,
)
def test_the_same_samples_are_measured_with_the_same_clients(round: Round, parties: Parties) -> None:
    """AFL's sums are cut anew in every round, so their digests differ; the two parts added are the same."""
    summed(parties(work_of(Split())), at())
    reasons = refused(parties(work_of(Split()), run="second"), round, OTHERS, run="second")
    assert_all(reasons, "it has opened one of the same samples (task 0, train round 0, seed 0) before, with other")
    other = summed(parties(work_of(Split())), at(task=1), OTHERS)
    assert other.reported == tuple(OTHERS)  # other samples


def test_a_round_has_one_name(parties: Parties) -> None:
    """Round 1.0 is round 1: as a name of its own it would be a round that nobody remembers."""
    for odd in ('"index": 1.0', '"index": true'):
        with pytest.raises(RunError, match=r"names no round .*counted in integers"):
            read_round(spell(at(1)).replace('"index": 1', odd))
    summed(parties(work_of()), at(1))
    lying = parties(work_of())

    def lie(client: str, message: Message) -> Message:
        text = message.text["round"].replace('"index": 1', '"more": 0,  "index": 1')  # the same in other letters
        return Message(message.tensors, {**message.text, "round": text})

    lying.lie = lie
    assert_all(refused(lying, at(1), OTHERS), THIS_ROUND)


def test_tensors_that_a_last_bit_tells_apart_are_no_other_round(parties: Parties) -> None:
    """Another digest of nearly the same: the difference was client 3's statistic but for 1e-6 of it."""
    summed(parties(work_of()), at())
    nearly = {"scale": torch.nextafter(SHARED["scale"], torch.tensor([3.0]))}
    assert_all(refused(parties(work_of()), at(), OTHERS, nearly), THIS_ROUND)


def test_no_client_computes_from_other_tensors_than_the_rest(parties: Parties) -> None:
    """Two sums of the same clients; in the second, client 3 alone was given other tensors in the input step."""
    summed(parties(work_of()), at())
    lying, false = parties(work_of()), {"scale": torch.zeros(1)}

    def lie(client: str, message: Message) -> Message:
        if client != VICTIM or message.text["step"] != INPUT:
            return message
        all = digest_of_all({name: digest_of(tensor) for name, tensor in false.items()})
        return Message(false, {**message.text, "same": "[]", "gone": "[]", "first": "yes", "all": all})

    lying.lie = lie
    reasons = refused(lying, at())
    assert "its terms are those of another round, of other shared tensors or of another con" in reasons.pop(VICTIM)
    assert_all(reasons, THIS_ROUND)


def test_no_client_computes_by_other_settings_than_the_rest(parties: Parties) -> None:
    """Client 3 alone was told of another configuration, under which its update is known before."""
    summed(parties(work_of(terms="lr = 1")), at())
    lying = parties(work_of(terms="lr = 1"))
    lying.works = {VICTIM: work_of(terms="lr = 0")}
    reasons = refused(lying, at())
    assert "or of another configuration than this client computes from" in reasons.pop(VICTIM)
    assert_all(reasons, THIS_ROUND)


def test_samples_that_came_between_two_sums_of_a_round_are_not_disclosed(parties: Parties) -> None:
    """The same question, the same clients; the difference is what one of them has got since. Its words do not leave."""
    summed(parties(work_of()), at())
    changed = parties(work_of(), values={**VALUES, VICTIM: (*VALUES[VICTIM], 7.0)})
    reasons = refused(changed, at())
    assert "what it computes now is not what it gave then; the difference would be disclosed" in reasons.pop(VICTIM)
    assert_all(reasons, f"{THIS_ROUND} (missing now: '3')")


def test_in_one_sum_a_client_reveals_once(tmp_path: Path) -> None:
    """Asked again for other lists it would give both secrets of client 3, also after a crash in mid-reveal."""
    sites = Folders(work_of(signed=False), holders(VALUES), {}, tmp_path)
    before: dict[str, tuple[Message, bytes]] = {}

    def lie(client: str, message: Message) -> Message:
        if message.text["step"] == "reveal":
            before[client] = message, (tmp_path / client / STATE).read_bytes()
        return message

    def again(client: str) -> str:
        text = {**before[client][0].text, "to": "once more", "lists": json.dumps([OTHERS, [VICTIM]])}
        asked = {client: sites._work.codec.encode({}, text)}
        return next(answer for answer in Sites.ask(sites, asked, {}, at()) if answer).fault

    sites.lie = lie
    assert summed(sites, at()).reported == tuple(ALL)
    for client in OTHERS:
        assert "holds nothing with which it could take the step 'reveal'" in again(client)
        (tmp_path / client / STATE).write_bytes(before[client][1])
        assert f"{THIS_ROUND} (missing now: '3')" in again(client)


def test_a_sum_over_strangers_is_refused_where_clients_have_identities() -> None:
    """A client that its own settings do not name could be summed, unsigned, with clients that the server made up."""
    known = {client: PUBLIC[client] for client in OTHERS}
    settings = Work(squares(ByRound()), MODEL, Codec(), masking=Masking(3, known))
    made_up = holders({VICTIM: VALUES[VICTIM], "x": (0.0,), "y": (0.0,)})
    lying = Memory(Work(squares(ByRound()), MODEL, Codec(), masking=Masking(3)), made_up, {})
    lying.works = {VICTIM: settings}
    assert "its settings name no identity of '3'" in refused(lying, at(), sorted(made_up))[VICTIM]


def test_an_honest_run_that_was_killed_goes_on_with_the_same_clients(parties: Parties, tmp_path: Path) -> None:
    """The sum was opened, the state was not saved: the same sum comes out again, and nothing more is remembered."""
    first = summed(parties(work_of()), at(), OTHERS)
    size = (tmp_path / "0" / SUMS).stat().st_size if (tmp_path / "0").is_dir() else 0
    again = summed(parties(work_of()), at(), OTHERS)
    assert all(torch.equal(first.total[key], again.total[key]) for key in first.total)
    assert size == ((tmp_path / "0" / SUMS).stat().st_size if size else 0)
    reasons = refused(parties(work_of()), at(), ALL)
    assert_all(reasons, f"{THIS_ROUND} (new now: '3'); two such sums disclose what a client gave; resume the run when")
    assert_all(reasons, "the clients are the same again, or begin a new run with another run.seed")


def test_a_run_that_lost_a_client_after_the_opening_is_told_what_to_do(parties: Parties) -> None:
    summed(parties(work_of()), at())
    reasons = refused(parties(work_of()), at(), OTHERS)
    assert_all(reasons, f"{THIS_ROUND} (missing now: '3'); two such sums disclose what a client gave; resume the run")
    assert summed(parties(work_of()), at()).reported == tuple(ALL)  # the client is back
    later = summed(parties(work_of()), at(1), OTHERS)  # who is lost in another round costs itself that one
    assert later.reported == tuple(OTHERS)
    assert summed(parties(work_of()), at(seed=1), OTHERS).reported == tuple(OTHERS)


def test_clients_without_samples_have_no_secret(parties: Parties) -> None:
    none = dict.fromkeys(ALL, ())
    assert summed(parties(work_of(), values=none), at()).idle == tuple(ALL)
    assert summed(parties(work_of(), values=none), at(1), OTHERS).idle == tuple(OTHERS)


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_site_that_does_not_know_what_it_opened_takes_part_in_nothing(damage: str, tmp_path: Path) -> None:
    summed(Folders(work_of(), holders(VALUES), {}, tmp_path, identities=PRIVATE), at(), run="first")
    path = tmp_path / "1" / SUMS
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-2], "changed": whole.replace(b"round 0", b"round 7"), "emptied": b""}[damage])
    sites = Folders(work_of(), holders(VALUES), {}, tmp_path, run="second", identities=PRIVATE)
    outcome = summed(sites, at(1))
    assert f"{SUMS} is damaged, and without it this client does not know which sums" in outcome.failed["1"]
    assert outcome.reported == ("0", "2", "3", "4")


def test_a_sum_is_remembered_before_its_shares_leave(tmp_path: Path) -> None:
    sites = Folders(work_of(signed=False), holders(VALUES), {}, tmp_path)
    noted: list[int] = []

    def lie(client: str, message: Message) -> Message:
        noted.append(len(OnDisk(tmp_path / "0", tmp_path / "0").opened_sums()))
        return message

    sites.lie = lie
    summed(sites, at())
    assert (
        noted == [0] * 16 + [1] * 4
    )  # five are asked in each of four steps; the first of all revealed before the rest

"""What is refused, by whom, and that the message says who is at fault; what one client sends costs only itself."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch

from fedbraid.errors import RunError, UserError
from fedbraid.secure import BelowThreshold, Layout, Session, advertise, client, masked_sum, new_identity, server, share
from fedbraid.secure.ciphers import digest, private_key, sign
from fedbraid.secure.messages import BOX, seal_shares, view_of
from fedbraid.secure.shamir import split


def flipped(message: bytes, place: int) -> bytes:
    changed = bytearray(message)
    changed[place] ^= 1
    return bytes(changed)


def same(found: server.Unmasked, expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(found.total[key], expected[key]) for key in expected)


@pytest.mark.parametrize("clients", [0, 1, 2])
def test_fewer_than_three_clients_hide_nothing(clients: int) -> None:
    with pytest.raises(UserError, match=f"of {clients} clients hides nothing; it takes 3"):
        Session("run", "0", tuple("ab"[:clients]), Layout(()))


@pytest.mark.parametrize(("clients", "lowest", "default"), [(3, 3, 3), (4, 3, 3), (5, 3, 4), (6, 4, 5), (12, 7, 9)])
def test_a_threshold_is_above_half_of_the_clients_and_three_at_least(clients: int, lowest: int, default: int) -> None:
    names = tuple("abcdefghijkl"[:clients])
    assert Session("run", "0", names, Layout(())).needed == default > 2 * clients / 3
    for threshold in (*range(lowest), clients + 1):
        with pytest.raises(UserError, match=f"of {clients} clients is {lowest} to {clients}, not {threshold}"):
            Session("run", "0", names, Layout(()), threshold)
    assert [Session("run", "0", names, Layout(()), t).needed for t in range(lowest, clients + 1)]


def test_a_session_is_complete() -> None:
    for names in (tuple("acb"), tuple("aabc")):
        with pytest.raises(UserError, match="once each, in sorted order"):
            Session("run", "0", names, Layout(()))
    with pytest.raises(UserError, match=r"for all clients or for none; they differ in \['c'\]"):
        Session("run", "0", tuple("abc"), Layout(()), identities={"a": bytes(32), "b": bytes(32)})
    with pytest.raises(UserError, match="32 bytes"):
        Session("run", "0", tuple("abc"), Layout(()), identities=dict.fromkeys("abc", bytes(31)))


def test_below_the_threshold_every_step_refuses_and_says_who_is_missing(world, steps) -> None:
    cohort = world(6, 4, signed=True)
    names, run = cohort.session.clients, steps(cohort)
    few = names[:3]
    refusal = pytest.raises(BelowThreshold, match=f"3 of 6 clients .* the threshold is 4; .* {names[3]}, {names[4]}")

    def only(messages):
        return {name: messages[name] for name in few}

    advertised = run.keys()
    with refusal:
        server.collect_keys(cohort.session, only(advertised))
    with refusal:
        share(run.stages[names[0]], only(advertised))
    keys = server.collect_keys(cohort.session, advertised)
    shares = run.shares(keys.advertised)
    with refusal:
        server.collect_shares(keys, only(shares))
    dealt = server.collect_shares(keys, shares)
    with refusal:
        client.mask(run.stages[names[0]], cohort.updates[names[0]], only(dealt.boxes[names[0]]))
    messages = run.inputs(dealt.boxes)
    with refusal:
        server.collect_inputs(dealt, only(messages).items())
    with refusal:
        client.confirm(run.stages[names[0]], few, names[3:], identity=cohort.identities[names[0]])
    inputs = server.collect_inputs(dealt, messages.items())
    signed = run.confirmations(inputs.survivors, inputs.dropouts)
    with refusal:
        server.collect_confirmations(inputs, only(signed))
    with refusal:
        client.reveal(run.stages[names[0]], only(signed))
    reveals = {name: client.reveal(run.stages[name], signed) for name in names}
    with refusal:
        server.unmask(inputs, only(reveals))
    assert same(server.unmask(inputs, reveals), cohort.plain(names))


@pytest.mark.parametrize("signed", [False, True])
def test_a_client_never_gives_both_secrets_of_another(world, steps, signed: bool) -> None:
    run = steps(world(5, 3, signed=signed))
    names = run.world.session.clients
    run.inputs(run.dealt().boxes)
    stage, identity = run.stages[names[0]], run.world.identities.get(names[0])
    with pytest.raises(RunError, match=rf"{names[0]}' refuses to reveal both secrets of \['{names[4]}'\]"):
        client.confirm(stage, names, names[4:], identity=identity)
    confirmed, _ = client.confirm(stage, names[:4], names[4:], identity=identity)
    for survivors, dropouts in ((names, ()), ((*names[:3], names[4]), names[3:4])):
        with pytest.raises(RunError, match=r"both secrets of .* confirmed other lists before"):
            client.confirm(confirmed, survivors, dropouts, identity=identity)
    again, _ = client.confirm(confirmed, names[3::-1], names[4:], identity=identity)  # asked again, it answers again
    assert again == confirmed


def test_a_client_refuses_lists_that_are_not_those_of_the_sum(world, steps) -> None:
    run = steps(world(5, 3))
    names = run.world.session.clients
    run.inputs(run.dealt().boxes)
    stage = run.stages[names[0]]
    for survivors, dropouts, why in (
        (names[:4], (), names[4]),
        (names, ("stranger",), "stranger"),
        (names[1:], names[:1], "the server named it a dropout"),
        ((names[0],) * 5, names[1:], "1 of 5 clients"),
        (names[:2] * 3, names[2:], "2 of 5 clients"),
    ):
        with pytest.raises(RunError, match=why):
            client.confirm(stage, survivors, dropouts)


def test_a_server_with_two_stories_gets_no_shares(world, steps) -> None:
    """Every client signs what it was told; no list finds the threshold of signatures."""
    run = steps(world(6, signed=True))  # the threshold is five
    names, signs = run.world.session.clients, run.world.identities
    run.inputs(run.dealt().boxes)
    lists = {name: (names, ()) if place < 3 else (names[1:], names[:1]) for place, name in enumerate(names)}
    told = {name: client.confirm(run.stages[name], *lists[name], identity=signs[name]) for name in names}
    signed = {name: message for name, (_, message) in told.items()}
    for name, (stage, _) in told.items():
        with pytest.raises(RunError, match=r"the confirmation of client '.*' is refused"):
            client.reveal(stage, signed)
        alike = {other: signed[other] for other in names if lists[other] == lists[name]}
        with pytest.raises(BelowThreshold, match="3 of 6 clients confirmed the same survivors"):
            client.reveal(stage, alike)
        with pytest.raises(BelowThreshold, match="0 of 6"):
            client.reveal(stage)


def test_tampered_keys_cost_their_sender_only(world, steps) -> None:
    run = steps(world(5, 3, signed=True))
    names, advertised = run.world.session.clients, run.keys()
    for bad in (
        *(flipped(advertised[names[2]], place) for place in range(0, 128, 9)),
        advertised[names[1]],  # another client's
        advertised[names[2]][:64],
        advertised[names[2]] + b"\0",
        b"",
    ):
        keys = server.collect_keys(run.world.session, {**advertised, names[2]: bad, "stranger": advertised[names[0]]})
        assert [*keys.advertised] == [name for name in names if name != names[2]]
        assert {*keys.refused} == {names[2], "stranger"}
        assert f"client '{names[2]}'" in keys.refused[names[2]]
        assert "none of this sum" in keys.refused["stranger"]
        with pytest.raises(RunError, match=f"client '{names[2]}'"):  # a server that passes them on all the same
            share(run.stages[names[0]], {**advertised, names[2]: bad})


def test_a_client_looks_for_its_own_keys_in_the_list(world, steps) -> None:
    run = steps(world(5, 3))
    names, advertised = run.world.session.clients, run.keys()
    foreign = advertise(run.world.session, names[0])[1]
    for changed in ({**advertised, names[0]: foreign}, {name: advertised[name] for name in names[1:]}):
        with pytest.raises(RunError, match=f"client '{names[0]}' refuses the list of keys"):
            share(run.stages[names[0]], changed)


@pytest.mark.parametrize("weak", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_keys_with_which_nobody_can_agree_are_refused(world, steps, weak: bytes) -> None:
    run = steps(world(5, 3))
    names, advertised = run.world.session.clients, run.keys()
    for bad in (weak + advertised[names[4]][32:], advertised[names[4]][:32] + weak):
        keys = server.collect_keys(run.world.session, {**advertised, names[4]: bad})
        assert "no proper X25519 keys" in keys.refused[names[4]]
    with pytest.raises(RunError, match=f"'{names[4]}' agree on no key"):
        share(run.stages[names[0]], {**advertised, names[4]: weak + advertised[names[4]][32:]})


def test_a_change_of_sealed_shares_names_the_dealer(world, steps) -> None:
    run = steps(world(5, 3))
    dealt = run.dealt()
    holder, dealer, other = run.world.session.clients[:3]
    boxes, update = dealt.boxes[holder], run.world.updates[holder]
    for place in range(BOX):
        with pytest.raises(RunError, match=f"client '{holder}' refuses the shares of client '{dealer}'"):
            client.mask(run.stages[holder], update, {**boxes, dealer: flipped(boxes[dealer], place)})
    for bad in (b"", boxes[dealer][:-1], boxes[other], dealt.boxes[other][dealer], dealt.boxes[dealer][holder]):
        with pytest.raises(RunError, match=f"client '{holder}' refuses the shares of client '{dealer}'"):
            client.mask(run.stages[holder], update, {**boxes, dealer: bad})
    for bad, why in (({**boxes, "x": boxes[dealer]}, "'x'.* advertised no keys"), ({**boxes}, "its own are not")):
        if "x" not in bad:
            del bad[holder]
        with pytest.raises(RunError, match=why):
            client.mask(run.stages[holder], update, bad)


def test_a_dealer_that_marks_other_shares_than_it_seals_is_named(world, steps, monkeypatch) -> None:
    run = steps(world(5, 3))
    keys = server.collect_keys(run.world.session, run.keys())
    shares = run.shares(keys.advertised)
    dealer, holder = run.world.session.clients[:2]
    monkeypatch.setattr("fedbraid.secure.messages.mark", lambda *parts: b"\0" * 32)
    false = share(dataclasses.replace(run.stages[dealer].own), keys.advertised)[1]
    monkeypatch.undo()
    dealt = server.collect_shares(keys, {**shares, dealer: false})
    with pytest.raises(RunError, match=f"shares of client '{dealer}': they are not those that it marked"):
        client.mask(run.stages[holder], run.world.updates[holder], dealt.boxes[holder])


def test_clients_that_were_shown_different_keys_do_not_go_on(world, steps) -> None:
    """The list of keys is bound into the seals: a server cannot show each client another cohort."""
    run = steps(world(5, 3))
    names, advertised = run.world.session.clients, run.keys()
    shorter = {name: advertised[name] for name in names[:4]}
    stage, boxes = share(run.stages[names[0]], advertised)
    other = share(run.stages[names[1]], shorter)[1]
    received = {names[0]: boxes[names[0]], names[1]: other[names[0]], names[2]: b""}
    with pytest.raises(RunError, match=f"refuses the shares of client '{names[1]}': .* another list of keys"):
        client.mask(stage, run.world.updates[names[0]], received)


def test_incomplete_shares_cost_their_dealer_only(world, steps) -> None:
    run = steps(world(5, 3))
    names = run.world.session.clients
    keys = server.collect_keys(run.world.session, run.keys())
    shares = run.shares(keys.advertised)
    good = shares[names[1]]
    for bad in (
        {},
        {name: good[name] for name in names[1:]},
        {**good, "x": good[names[0]]},
        {**good, names[0]: good[names[0]][1:]},
    ):
        dealt = server.collect_shares(keys, {**shares, names[1]: bad, "stranger": good})
        assert {*dealt.refused} == {names[1], "stranger"}
        assert {*dealt.boxes} == {*dealt.boxes[names[0]]} == {*names} - {names[1]}


def test_inputs_of_another_client_round_or_size_cost_their_sender_only(world, steps) -> None:
    run, earlier = steps(world(5, 3)), steps(world(5, 3, round="round 1"))
    names = run.world.session.clients
    dealt = run.dealt()
    messages = run.inputs(dealt.boxes)
    replayed = earlier.inputs(earlier.dealt().boxes)[names[1]]
    for bad in (replayed, messages[names[0]], messages[names[1]][:-1], messages[names[1]] + b"\0", b""):
        inputs = server.collect_inputs(dealt, {**messages, names[1]: bad, "stranger": bad}.items())
        assert {*inputs.refused} == {names[1], "stranger"}
        assert inputs.dropouts == (names[1],)
    twice = server.collect_inputs(dealt, [*messages.items(), (names[1], messages[names[1]])])
    assert "counted already" in twice.refused[names[1]]
    once = server.collect_inputs(dealt, messages.items())
    assert np.array_equal(twice.words, once.words)


def test_a_changed_share_costs_its_holder_only(world, steps) -> None:
    run = steps(world(6, 4))
    names = run.world.session.clients
    inputs = run.summed(names[5])
    reveals, expected = run.reveals(inputs), run.world.plain(names[:5])
    for dealer in names:
        good = reveals[names[0]]
        for bad in ({**good, dealer: flipped(good[dealer], 20)}, {**good, dealer: reveals[names[1]][dealer]}):
            found = server.unmask(inputs, {**reveals, names[0]: bad, "stranger": good})
            assert same(found, expected)
            assert {*found.refused} == {names[0], "stranger"}
            assert f"'{names[0]}' reveals are refused: that of client '{dealer}'" in found.refused[names[0]]
        missing = {name: value for name, value in good.items() if name != dealer}
        assert same(server.unmask(inputs, {**reveals, names[0]: missing}), expected)
    dropout = {**reveals[names[0]], names[5]: run.stages[names[0]].own.held[names[5]].seed}
    assert names[0] in server.unmask(inputs, {**reveals, names[0]: dropout}).refused  # the other secret of a dropout


def test_a_changed_confirmation_costs_its_sender_only(world, steps) -> None:
    run = steps(world(5, 3, signed=True))
    names = run.world.session.clients
    inputs = run.summed(names[4])
    signed = run.confirmations(inputs.survivors, inputs.dropouts)
    for bad in (flipped(signed[names[0]], 5), signed[names[1]], b"", sign(run.world.identities[names[0]], b"text")):
        found = server.collect_confirmations(inputs, {**signed, names[0]: bad, names[4]: bad})
        assert {*found.refused} == {names[0], names[4]}
        assert [*found.messages] == list(names[1:4])
        with pytest.raises(RunError, match=f"confirmation of client '{names[0]}' is refused"):
            client.reveal(run.stages[names[1]], {**signed, names[0]: bad})


def test_shares_that_do_not_give_a_dropouts_key_end_the_sum(world, steps) -> None:
    run = steps(world(5, 3))
    session, names = run.world.session, run.world.session.clients
    keys = server.collect_keys(session, run.keys())
    liar = dataclasses.replace(run.stages[names[0]], masking=b"\5" * 32)
    shares = run.shares(keys.advertised)
    dealt = server.collect_shares(keys, {**shares, names[0]: share(liar, keys.advertised)[1]})
    messages = run.inputs(dealt.boxes)
    inputs = server.collect_inputs(dealt, [(name, messages[name]) for name in names[1:]])
    with pytest.raises(RunError, match=f"client '{names[0]}' dealt do not give its key; nothing was summed"):
        server.unmask(inputs, run.reveals(inputs))


@pytest.mark.parametrize(
    "change",
    [
        {"run": "other"},
        {"round": "other"},
        {"threshold": 4},
        {"layout": Layout.of({"x": torch.zeros(1)})},
        {"clients": tuple("abcdeg")},
    ],
)
def test_messages_of_another_session_are_refused(change) -> None:
    identities = {name: new_identity() for name in "abcdefg"}

    def make(**settings) -> Session:
        known = {"run": "run", "round": "0", "clients": tuple("abcdef"), "layout": Layout(()), **settings}
        return Session(**known, identities={name: identities[name][1] for name in known["clients"]})

    session, other = make(), make(**change)
    own = {name: advertise(session, name, identity=identities[name][0]) for name in session.clients}
    foreign = advertise(other, "b", identity=identities["b"][0])[1]
    advertised = {name: message for name, (_, message) in own.items()}
    assert "not signed by it for this sum" in server.collect_keys(session, {**advertised, "b": foreign}).refused["b"]
    with pytest.raises(RunError, match="keys of client 'b' is refused: not signed"):
        share(own["a"][0], {**advertised, "b": foreign})
    shared = {name: share(own[name][0], advertised) for name in session.clients}
    box = _box(other, own["b"][0], own["a"][0], advertised)
    boxes = {name: shared[name][1]["a"] for name in session.clients}
    with pytest.raises(RunError, match="refuses the shares of client 'b'"):
        client.mask(shared["a"][0], {}, {**boxes, "b": box})


def _box(session, dealer, holder, advertised) -> bytes:
    """The shares of one client for another as they would be sealed in this session."""
    from fedbraid.secure.masks import sealing_key
    from fedbraid.secure.messages import Shares

    key = sealing_key(
        session, private_key(dealer.sealing), advertised[holder.client][:32], dealer.client, holder.client
    )
    part = split(dealer.seed, [1, 2, 3], threshold=3)[1]
    return seal_shares(session, key, view_of(advertised), dealer.client, holder.client, Shares(part, part))


def test_identities_are_needed_where_the_session_has_them(world) -> None:
    cohort = world(5, 3, signed=True)
    name = cohort.session.clients[0]
    for wrong in (None, new_identity()[0]):
        with pytest.raises(UserError, match=f"client '{name}' signs with the private key of its identity"):
            advertise(cohort.session, name, identity=wrong)
    with pytest.raises(UserError, match="'x' is none of this sum"):
        advertise(cohort.session, "x")


def test_an_update_that_does_not_fit_is_not_sent(world) -> None:
    cohort = world(5, 3)
    name = cohort.session.clients[2]
    bad = {**cohort.updates[name], "mean": torch.tensor([0.0, float("nan"), 0, 0])}
    with pytest.raises(RunError, match=r"'mean'\[1\] is nan, which does not fit a masked sum of 5 clients"):
        masked_sum(cohort.session, {**cohort.updates, name: bad})


def test_without_the_extra_it_is_said_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.x25519", None)
    with pytest.raises(UserError, match=r"pip install 'fedbraid\[secure\]'"):
        advertise(Session("run", "0", tuple("abc"), Layout(())), "a")


def test_parts_of_a_digest_cannot_move_into_each_other() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("ab", "c", ""), digest("", "ab", "c")}) == 5

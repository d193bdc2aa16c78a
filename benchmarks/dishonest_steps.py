"""Attacks on single steps of masked sums: false terms, false lists, forged shares, keys of the server's own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dishonest_questions import update
from dishonest_sites import CLIENTS, Came, Target, World, attack, question, spelled
from dishonest_sums import MASKED, OTHERS, SUMS, VICTIM, Federation, stolen
from lying_servers import Lie

from fedbraid.runtimes.client import Masking
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.identity import make_identity
from fedbraid.runtimes.masked_client import INPUT
from fedbraid.runtimes.masked_state import STATE


def terms(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Lie:
    """The terms of the sum are others."""

    def lie(_client: str, message: Message) -> Message:
        if message.text.get("step") != "keys":
            return message
        written = json.dumps({**(facts := json.loads(message.text["terms"])), **change(facts)})
        return Message(message.tensors, {**message.text, "terms": written})

    return lie


def false_terms(title: str, *changes: Callable[[dict[str, Any]], dict[str, Any]], **site: Any) -> None:
    """An attack by terms that a site must not agree to; it has agreed where its keys come."""

    @attack(SUMS, title)
    def asked(world: World) -> str:
        sites = Federation(world, "fedit", MASKED, **site)
        victim = sites.sites[VICTIM]
        for change in changes:
            before = len(victim.came)
            sites.sum(lie=terms(change))
            replies = victim.came[before + 1 :]
            if not replies:
                return "the site was not asked, so the attack shows nothing"
            if not replies[0].code:
                return "the site sent its keys"
        return ""


def entry(number: int, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The first tensor of the layout has another name, shape, type or number of bits."""

    def change(facts: dict[str, Any]) -> dict[str, Any]:
        first, *rest = facts["layout"]
        return {"layout": [[*first[:number], value, *first[number + 1 :]], *rest]}

    return change


false_terms("a lower threshold than the site's own", lambda _: {"threshold": 3}, secure={"threshold": 4})
false_terms(
    "thresholds of half the sites, of one, of none, beyond all",
    *(lambda _, t=t: {"threshold": t} for t in (2, 1, 0, -1, 5)),
)
false_terms("a cohort with one site twice", lambda facts: {"clients": [*facts["clients"], VICTIM]})
false_terms("a cohort without the site that is asked", lambda _: {"clients": ["a", "b", "c"]})
false_terms("a cohort of two", lambda _: {"clients": ["north", "west"], "threshold": 2})
false_terms("another number of bits after the point", entry(3, 0), entry(3, 62), entry(3, -1), entry(3, 10**30))
false_terms(
    "a layout of another name, of names of clients", entry(0, "x"), entry(0, "client/west/x"), entry(0, "keep/x")
)
false_terms(
    "a layout without end, below zero, of no numbers",
    entry(1, [10**15]),
    entry(1, [-5]),
    entry(1, ["x"]),
    entry(1, [1e308]),
)
false_terms("terms of another round, of another run", lambda _: {"run": "00" * 32})
false_terms(
    "terms that are damaged", lambda _: {"layout": 3}, lambda _: {"clients": None}, lambda _: {"identities": [1]}
)
false_terms(
    "keys of the server's choice, where sites are known by none",
    lambda facts: {"identities": dict.fromkeys(facts["clients"], "00" * 32)},
)


@attack(SUMS, "a question in clear, at a site that takes part in masked sums alone")
def in_clear(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    sites.sum()
    _, shared, round = sites.begun()
    site = sites.sites[VICTIM]
    asked = question(shared, replace(round, index=1))
    found = [site.answer(spelled(asked)), site.answer(spelled(asked, step="")), site.answer(spelled(asked, step="x"))]
    plain = world.config("digits", method="fedit")
    return "an update" if any(map(update, found)) or not site.greet(world.sent(plain)).code else ""


def lists(site: Target, message: Message, survivors: Sequence[str], dropouts: Sequence[str]) -> Came:
    """What a site says to other lists of who has survived."""
    text = {**message.text, "to": f"{survivors} {dropouts}", "lists": json.dumps([survivors, dropouts])}
    return site.answer(Codec().encode({}, text))


@attack(SUMS, "both secrets of one site: the share of a survivor's seed, and that of a dropout's key")
def both_secrets(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    reveals: dict[str, tuple[Message, bytes]] = {}

    def lie(client: str, message: Message) -> Message:
        if message.text["step"] == "reveal":
            reveals[client] = message, next(sites.sites[client].folder.glob(f"holdings/*/{STATE}")).read_bytes()
        return message

    sites.sum(lie=lie)
    if not reveals:
        return "no sum was opened, so the attack shows nothing"
    given = []
    for client, (message, held) in reveals.items():
        site = sites.sites[client]
        given.append(lists(site, message, list(OTHERS), [VICTIM]))
        next(site.folder.glob(f"holdings/*/{STATE}")).write_bytes(held)  # as after a crash in mid-reveal
        given.append(lists(site.restarted(), message, list(OTHERS), [VICTIM]))
    return "both secrets" if any(not came.code for came in given) else ""


def false_lists(title: str, *odd: tuple[Sequence[str], Sequence[str]]) -> None:
    """An attack by lists of survivors and dropouts that no honest server sends."""

    @attack(SUMS, title)
    def asked(world: World) -> str:
        sites = Federation(world, "fedit", MASKED)
        given: list[Came] = []

        def lie(client: str, message: Message) -> Message:
            if message.text["step"] == "reveal":
                given.extend(lists(sites.sites[client], message, *pair) for pair in odd)
            return message

        sites.sum(lie=lie)
        if not given:
            return "no list was sent, so the attack shows nothing"
        return "shares" if any(not came.code for came in given) else ""


false_lists("a site that survived and dropped out", (CLIENTS, [VICTIM]), (CLIENTS, CLIENTS))
false_lists("fewer survivors than the threshold", (["east", "north"], ["south", "west"]), ([], CLIENTS))
false_lists("lists without some, with strangers", (OTHERS, []), ([*CLIENTS, "x"], []), ([*OTHERS, "x"], [VICTIM]))


@attack(SUMS, "the input of one sum twice, with other sites among those that dealt shares")
def two_inputs(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    given: list[Came] = []

    def lie(client: str, message: Message) -> Message:
        if client == VICTIM and message.text["step"] == INPUT:
            site = sites.sites[client]
            given.append(site.answer(Codec().encode(message.tensors, dict(message.text))))
            parts = json.loads(message.text["parts"])
            fewer = json.dumps({dealer: part for dealer, part in parts.items() if dealer != "east"})
            given.append(site.answer(Codec().encode(message.tensors, {**message.text, "to": "x", "parts": fewer})))
        return message

    sites.sum(lie=lie)
    if len(given) < 2 or given[0].code:
        return "no input was given, so the attack shows nothing"
    return "" if given[1].code else "two inputs under the same masks"


@attack(SUMS, "damaged, exchanged and forged shares, keys and steps out of turn")
def forged(world: World) -> str:
    sites = Federation(world, "fedit", MASKED)
    site, given = sites.sites[VICTIM], list[Came]()

    def lie(client: str, message: Message) -> Message:
        if client != VICTIM or message.text["step"] == "keys":
            return message
        noise = base64.b64encode(bytes(200)).decode()
        odd = [json.dumps(dict.fromkeys(CLIENTS, noise)), "[" * 10**5, "{}", "null", '{"a": 1}', '{"a": "!"}']
        for number, parts in enumerate(odd):
            text = {**message.text, "to": f"{message.text['step']} {number}", "parts": parts, "lists": parts}
            given.append(site.answer(Codec().encode(message.tensors, text)))
        for step in ("reveal", "confirmation", "shares", "", "x", "__init__"):
            if step not in (message.text["step"], "confirmation" if message.text["step"] == "reveal" else ""):
                text = {"lists": "[]", "parts": "{}", **message.text, "to": f"turn {step}", "step": step}
                given.append(site.answer(Codec().encode(message.tensors, text)))
        return message

    sites.sum(lie=lie)
    return "" if given and all(came.code for came in given) else "an answer to a forged step"


def signed(world: World) -> tuple[Federation, Mapping[str, str]]:
    """Four sites that know each other by keys, and the keys."""
    sites = Federation(world, "fedit", MASKED)
    keys = {name: make_identity(site.folder) for name, site in sites.sites.items()}
    for site in sites.sites.values():
        site.allow(secure={"identities": keys})
    return sites, keys


@attack(SUMS, "signed sites: an honest sum, and the same round without one of them")
def signed_second(world: World) -> str:
    sites, keys = signed(world)
    masking = Masking(None, {name: bytes.fromhex(key) for name, key in keys.items()}, _terms(sites))
    return stolen(sites.sum(masking=masking), sites.sum(masking=masking, cohort=OTHERS))


def _terms(sites: Federation) -> str:
    masking = sites.begun()[0].work.masking
    return masking.terms if masking else ""


@attack(SUMS, "signed sites: keys that are none of theirs, no keys, strangers in place of two of them")
def unsigned(world: World) -> str:
    sites, keys = signed(world)
    written = _terms(sites)
    false = {name: bytes(32) for name in keys}
    given = [sites.sum(masking=Masking(None, identities, written)) for identities in (false, {})]
    victim = sites.sites[VICTIM]
    before = len(victim.came)
    sites.sum(lie=terms(lambda _: {"clients": [VICTIM, "x", "y"], "threshold": 3, "identities": {}}))
    agreed = any(not came.code for came in victim.came[before + 1 :])
    return "a sum under keys of the server's" if any(given) or agreed else ""


@attack(SUMS, "signed sites: shares revealed without the others' signatures, or under forged ones")
def without_signatures(world: World) -> str:
    sites, keys = signed(world)
    masking = Masking(None, {name: bytes.fromhex(key) for name, key in keys.items()}, _terms(sites))
    given: list[Came] = []

    def lie(client: str, message: Message) -> Message:
        if message.text["step"] == "reveal":
            own = json.loads(message.text["parts"])
            forged = dict.fromkeys(own, next(iter(own.values())))
            for number, parts in enumerate(({}, forged, dict.fromkeys(own, ""))):
                text = {**message.text, "to": f"forged {number}", "parts": json.dumps(parts)}
                given.append(sites.sites[client].answer(Codec().encode({}, text)))
        return message

    found = sites.sum(masking=masking, lie=lie)
    if not given:
        return "nothing was revealed, so the attack shows nothing" + ("" if found is None else " (there was a sum)")
    return "shares without signatures" if any(not came.code for came in given) else ""

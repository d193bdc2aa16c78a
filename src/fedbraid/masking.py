"""Masked mode as a configuration asks for it: what it must keep to, and why a run cannot have it.

A run that could not be masked is refused before it begins: where a method sends what is one client's, where a round has
too few clients, where the extra is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedbraid.config import Config
from fedbraid.core import EVALUATE, ClientId, Method, Phase, Round, Task
from fedbraid.engine import schedule
from fedbraid.errors import UserError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.privacy.account import one_by_one
from fedbraid.runtimes.client import Masking
from fedbraid.runtimes.rules import Rules
from fedbraid.secure import Layout, Session, new_identity


def masking(
    config: Config, terms: str = "", samples_of: Callable[[Task], Sequence[str]] = one_by_one
) -> Masking | None:
    """What masked rounds must keep to; None where rounds are in clear.

    `terms` says what updates follow from, `samples_of` of which classes the samples of a task are.
    """
    values = config.secure
    return Masking(values.threshold, _identities(values.identities or {}), terms, samples_of) if values.masked else None


def check_settings(
    config: Config, method: Method, tasks: Sequence[Task], clients: Sequence[ClientId], evaluators: int
) -> None:
    """`UserError` where the run cannot be masked, and says why."""
    wanted = masking(config)
    if wanted is None:
        return
    new_identity()  # `UserError` without the extra
    rounds = schedule(method, tasks, config.run.seed)
    own = owned(method, tasks)
    if own:
        raise UserError(
            f"secure.masked: method {method.name!r} sends what is each client's own ({', '.join(own)}), and no sum "
            "hides that; it may send sums with other options, and these always do: " + ", ".join(summable())
        )
    exam = _owned([(Round(tasks[0], EVALUATE, 0, config.run.seed), method.evaluate)])
    if exam and evaluators > 1:
        raise UserError(
            f"secure.masked: evaluations send what is each client's own ({', '.join(exam)}), and no sum hides that; "
            "choose other scores by data.scores, or keep all test samples at the server"
        )
    if wanted.identities and config.partition.kind != "sites":
        raise UserError(
            "secure.identities: clients that one machine computes have no keys of their own; signed sums are for "
            "deployments (see docs/masked.md)"
        )
    missing = sorted({*clients} - wanted.identities.keys()) if wanted.identities else []
    if missing:
        raise UserError(f"secure.identities names no key of client {missing[0]!r}; it takes one of every client")
    for round, phase in rounds:
        cohort = tuple(sorted(phase.cohort(clients, round)))
        if cohort:
            _check_cohort(wanted, cohort)


def note(config: Config, clients: int, rules: Rules) -> str:
    """What the report says of it."""
    count = min(config.partition.clients_per_round or clients, clients)
    cohort = tuple(sorted(map(str, range(count))))
    threshold = max(Session("", "", cohort, Layout(()), config.secure.threshold).needed, rules.needed(count))
    signed = "signed by the clients" if config.secure.identities else "not signed by the clients"
    return (
        f"masked sums, threshold {threshold} of {count}, {signed}: the server saw no client's update, so none was "
        "checked by itself, the sums were; nothing is told of how far updates lie apart"
    )


def owned(method: Method, tasks: Sequence[Task]) -> list[str]:
    """What of a method's messages is one client's own, by the beginnings of names; nothing where all of it adds up."""
    return _owned(schedule(method, tasks, 0))


def _owned(rounds: Sequence[tuple[Round, Phase]]) -> list[str]:
    gives = (phase.gives(round, lifted=True).items() for round, phase in rounds)
    return sorted({name for some in gives for name, quantity in some if quantity.owned})


def summable() -> list[str]:
    """The methods that send sums alone as they are by default, so that a masked sum can compute them."""
    task = Task(0, (0, 2))
    found: list[str] = []
    for name, entry in METHODS.items():
        options = entry()
        adapter = options.adapter(Adapter(options.about.adapters[0]))  # pyright: ignore[reportArgumentType]
        if not options.about.centralised and not owned(make(options, Setting(adapter, Training(), 1)), [task]):
            found.append(name)
    return sorted(found)


def _check_cohort(wanted: Masking, cohort: tuple[ClientId, ...]) -> None:
    try:
        Session("", "", cohort, Layout(()), wanted.threshold)
    except UserError as error:
        raise UserError(f"secure.masked: {error}") from error


def _identities(given: Mapping[str, str]) -> dict[ClientId, bytes]:
    try:
        return {client: bytes.fromhex(key) for client, key in given.items()}
    except ValueError as error:
        raise UserError(f"secure.identities: a public key is 64 hexadecimal digits ({error})") from error

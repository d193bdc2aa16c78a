"""Modes x quantities: one table, and every mode does with every quantity what its row says."""

from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from fedbraid import quantities as q
from fedbraid.core import Round, Task
from fedbraid.errors import RunError, UserError
from fedbraid.linalg import to_triangle
from fedbraid.methods.base import FROZEN, TUNED
from fedbraid.privacy.guard import Guard, Payment
from fedbraid.privacy.ledger import Budget
from fedbraid.privacy.protection import Protection
from fedbraid.quantities import Gives, Quantity
from fedbraid.runtimes import gram_rules, limits
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.robust import Clip, Cohort, Thresholds, clipped
from fedbraid.wire import anonymous, declared, entries, fraction, misshapen, undeclared

ROWS = {name: row for name, row in vars(q).items() if isinstance(row, Quantity)}
ROUND = Round(Task(0, (0, 3)), "train", 0, 0)

# bound, whether signed, compared, clipped, bits under masks, what makes it private
TABLE = """
VALUE            value    yes change    change  24   training
WEIGHTED         values   yes size      weight  24   derived
PRODUCT          sample   yes size      weight  24   derived
UPDATE_PRODUCT   sample   yes size      weight  24   derived
SKETCH           sample   yes size      weight  24   derived
SIGNED_CHANGES   sample   yes size      weight  36   derived
FISHER_PRODUCT   sample   yes size      weight  40   derived
COUNT            count    no  weight    weight  24   nothing
SAMPLES          count    no  weight    weight  24   declared
CLASS_COUNTS     count    no  weight    weight  24   nothing
SIGN_COUNTS      count    no  weight    weight  24   derived
SENDERS          count    no  weight    nothing 24   declared
SUM              sample   yes size      weight  24   nothing
GRADIENT         sample   yes size      weight  24   nothing
MOMENT           sample   yes size      weight  24   nothing
SQUARES          trace    no  gradients weight  40   nothing
DIAGONAL         trace    no  trace     weight  24   grams
GRAM             trace    yes trace     weight  24   nothing
SQUARE_GRAM      trace    yes trace     weight  24   nothing
CLASS_GRAM       trace    yes trace     weight  24   nothing
EIGENVALUES      trace    no  nothing   weight  24   nothing
DIRECTION        one      yes nothing   nothing 24   nothing
OWNER            one      no  nothing   nothing None nothing
METRIC           nothing  yes nothing   weight  24   nothing
TRAINED_SAMPLES  count    no  nothing   weight  24   nothing
RESULT           sample   yes nothing   weight  24   nothing
RESULTS          count    no  nothing   weight  24   nothing
TOKENS           tokens   no  nothing   weight  24   nothing
ANSWERS          sample   yes nothing   weight  None nothing
"""


def test_every_quantity_has_a_row_with_the_answer_of_every_mode() -> None:
    written = {row.split()[0]: row.split()[1:] for row in TABLE.strip().splitlines()}
    found = {
        name: [row.bound, "yes" if row.signed else "no", row.compared, row.clipped, str(row.fraction), row.released]
        for name, row in ROWS.items()
    }
    assert found == written


def test_a_quantity_without_the_answer_of_some_mode_cannot_be_made() -> None:
    answers = ("bound", "compared", "clipped", "fraction", "released", "discloses")
    required = {field.name for field in fields(Quantity) if field.default is MISSING}
    assert {*answers} <= required
    for left_out in answers:
        given = {name: getattr(q.SUM, name) for name in required - {left_out}}
        with pytest.raises(TypeError, match=left_out):
            Quantity(**given)


def test_words_are_plain_and_of_every_role_there_is_one() -> None:
    assert {row.role for row in ROWS.values()} == {*get_args(q.Role)}
    for name, row in ROWS.items():
        assert len(row.discloses) > 25, name
        assert row.discloses[0].islower(), name
        assert not row.discloses.endswith("."), name


def tensor_of(row: Quantity, size: float = 1.0) -> Tensor:
    """An honest tensor of the quantity, of this size."""
    if row.form == "triangle":
        return size * to_triangle(torch.eye(3).double())
    if row.form in ("square", "vectors"):
        return torch.eye(3).double() * (size if row.form == "square" else 1.0)
    whole = torch.full((3,), 4.0 * size, dtype=torch.float64)
    return torch.full((3,), 0.5, dtype=torch.float64) if row.bound == "one" else whole


def violations(row: Quantity, tensor: Tensor) -> list[str]:
    found = entries({"mine/x": tensor}, {"mine": row})
    rules = (
        limits.sizes(found, {"mine/x": torch.zeros(3), "x": torch.zeros(3)}, Limits(), 10.0),
        limits.counts(found, None),
        gram_rules.grams(found, Limits()),
    )
    return [violation.rule for some in rules for violation in some]


@pytest.mark.parametrize("name", ROWS)
def test_the_gate_bounds_it(name: str) -> None:
    row = ROWS[name]
    if row.counts != "sender":
        assert violations(row, tensor_of(row)) == []
    assert "finite" in violations(row, tensor_of(row) * torch.nan)
    assert bool(violations(row, tensor_of(row) * 1e30)) == (row.bound != "nothing")
    if not row.signed:
        assert "not below zero" in violations(row, -tensor_of(row))
    if row.role == "count":
        assert "a whole number" in violations(row, tensor_of(row) + 0.25)


def cohort_of(row: Quantity, last: float) -> list[str]:
    """Who is refused of eight clients, the last of whom sends so many times what the others send."""
    compared = Cohort(Thresholds(), {"mine/x": torch.zeros_like(tensor_of(row))}, ROUND, {"mine": row})
    for client in range(8):
        size = last if client == 7 else 1 + client / 100
        compared.add(str(client), {"mine/x": tensor_of(row, size)})
    return list(compared.verdict().refused)


@pytest.mark.parametrize("name", ROWS)
def test_robust_mode_compares_it(name: str) -> None:
    row = ROWS[name]
    assert cohort_of(row, 1.0) == []
    assert cohort_of(row, 1e6) == ([] if row.compared == "nothing" else ["7"])
    assert cohort_of(row, 500) == ([] if row.compared in ("nothing", "gradients") else ["7"])  # gradients may


@pytest.mark.parametrize("name", ROWS)
def test_a_clipped_update_scales_it(name: str) -> None:
    row = ROWS[name]
    received = {"mine/x": torch.full_like(tensor_of(row), 2.0)}
    clip = Clip(weight=0.5, changes={"mine": 0.25}, moved={"mine": True})
    before = tensor_of(row)
    after = clipped(entries({"mine/x": before}, {"mine": row}), received, clip)["mine/x"]
    expected = {"change": 2 + 0.25 * (before - 2), "weight": 0.5 * before, "nothing": before}
    assert torch.equal(after, expected[row.clipped])


@pytest.mark.parametrize("name", ROWS)
def test_a_masked_sum_has_its_bits_or_refuses_it(name: str) -> None:
    row = ROWS[name]
    assert fraction("mine/x", {"mine": row}) == row.fraction
    assert row.owned == (row.fraction is None)
    assert fraction("client/7/mine/x", q.own({"mine": row})) is None
    assert fraction("other", {"mine": row}) is None


def guard(**options: Any) -> Guard:
    protection = Protection(samples=10, batch_size=5, epochs=1, sigma=1.0)
    payment = Payment(Budget(6.0, 1e-5), protection, lambda client: pytest.fail(client), lambda round: ())
    made = Guard(payment=payment, **options)
    made._epsilon["a"] = 1.0
    return made


@pytest.mark.parametrize("name", ROWS)
def test_private_mode_lets_it_leave_or_not(name: str) -> None:
    row = ROWS[name]
    sent, gives = {"mine/x": tensor_of(row)}, {"mine": row}
    if row.released == "nothing":
        with pytest.raises(RunError, match="client a: no private release is known for"):
            guard().check(sent, gives, ROUND, "a", 9)
        return
    guard().check(sent, gives, ROUND, "a", 9)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.form])
def test_a_gram_of_any_layout_stays_where_it_is_on_too_few_samples(name: str) -> None:
    row = ROWS[name]
    sent, gives = {"mine/x": tensor_of(row)}, {"mine": row}
    if row.form == "values":  # its directions are sent with it, and are what is looked at
        Guard(refuse=True).check(sent, gives, ROUND, "a", 2)
        return
    with pytest.raises(RunError, match="the Gram of 'mine/x' would be taken on 2 samples"):
        Guard(refuse=True).check(sent, gives, ROUND, "a", 2)
    Guard(refuse=True).check(sent, gives, ROUND, "a", 20)


def test_what_is_not_declared_stays() -> None:
    with pytest.raises(RunError, match=r"nothing is declared of drift, mine/x, so that what it discloses"):
        Guard().check({"mine/x": torch.ones(1), "drift": torch.ones(1)}, {"other": q.SUM}, ROUND, "a", 9)


# --- names ---------------------------------------------------------------------------------------------------------

NAMES: Gives = {
    **q.GRAMS,
    **q.placed("fit", {"count": q.SAMPLES, "product": q.MOMENT}),
    **q.own({"count": q.CLASS_COUNTS}),
    "client/*": q.OWNER,
    "head": q.VALUE,
}


@pytest.mark.parametrize(
    ("name", "place", "kind", "key"),
    [
        ("head/0", "", "head", "0"),
        ("diagonal/head/0", "", "diagonal", "head/0"),
        ("fit/count", "fit/", "count", ""),
        ("fit/product/3", "fit/", "product", "3"),
        ("client/a%2Fb/count", "client/a%2Fb/", "count", ""),
        ("client/7", "client/", "7", ""),
    ],
)
def test_a_name_is_told_apart_by_what_is_declared(name: str, place: str, kind: str, key: str) -> None:
    (entry,) = entries({name: torch.zeros(1)}, NAMES)
    assert (entry.place, entry.kind, entry.key) == (place, kind, key)


@pytest.mark.parametrize("name", ["heads/0", "fit", "fit/gram", "client/7/first", "beside/count", "client", "Head/0"])
def test_other_names_are_not_declared(name: str) -> None:
    assert undeclared({name}, NAMES) == [name]
    assert entries({name: torch.zeros(1)}, NAMES) == []


def test_a_layer_may_be_called_client() -> None:
    name = "head/client/7"
    assert entries({name: torch.zeros(1)}, NAMES)[0].key == "client/7"
    assert anonymous("lora_A/model.client.fc") == "lora_A/model.client.fc"


@pytest.mark.parametrize("name", ["beside", "client", "client/7/x", "keep", "metric/a", "values", "fisher"])
def test_reserved_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(UserError, match=r"mine declares '.*choose another\. These names are taken: beside, client, "):
        declared({name: q.SUM}, "mine")


def test_names_that_authors_choose_are_taken() -> None:
    names = ("my_count", "tokens", "samples", "second", "first", "product", "weight", "total", "gram", "sum")
    assert declared(dict.fromkeys(names, q.SUM), "mine")
    assert declared({**q.GRAMS, "count": q.CLASS_COUNTS, "fisher": q.SQUARES, **q.own({"values": q.SUM})}, "mine")


@pytest.mark.parametrize(
    ("row", "shape", "fault"),
    [
        (q.GRAM, (6,), ""),
        (q.GRAM, (4, 6), ""),
        (q.GRAM, (5,), "a triangle of d (d + 1) / 2 numbers in the last dimension"),
        (q.GRAM, (), "a triangle of d (d + 1) / 2 numbers in the last dimension"),
        (q.SQUARE_GRAM, (3, 3), ""),
        (q.SQUARE_GRAM, (3, 4), "a square matrix"),
        (q.DIAGONAL, (6,), ""),
        (q.DIAGONAL, (2, 3), "d numbers"),
        (q.SUM, (2, 3), ""),
    ],
)
def test_a_gram_is_laid_out_as_declared(row: Quantity, shape: tuple[int, ...], fault: str) -> None:
    (entry,) = entries({"x": torch.zeros(shape)}, {"x": row})
    assert misshapen(entry) == fault


def test_kinds_of_values_are_those_that_adapters_tune() -> None:
    kinds = {kind for tuned in TUNED.values() for kind in tuned} | {*FROZEN, "head", "projection"}
    assert kinds <= {*q.VALUES}

"""Terms and stages as text: what is read is what was written, and what is damaged is refused."""

import json

import pytest

from fedbraid.errors import RunError
from fedbraid.secure import client, server
from fedbraid.secure.stages import read_session, read_stage, write_session, write_stage


@pytest.mark.parametrize("signed", [False, True])
def test_a_sum_goes_on_from_what_was_written(world, steps, signed: bool) -> None:
    cohort = world(5, 3, signed=signed)
    taken, names = steps(cohort), cohort.session.clients

    def again() -> None:
        taken.stages |= {name: read_stage(write_stage(stage)) for name, stage in taken.stages.items()}

    keys = server.collect_keys(cohort.session, taken.keys())
    again()
    dealt = server.collect_shares(keys, taken.shares(keys.advertised))
    again()
    inputs = server.collect_inputs(dealt, [*taken.inputs(dealt.boxes).items()][1:])
    again()
    confirmed = taken.confirmations(inputs.survivors, inputs.dropouts)
    again()
    reveals = {name: client.reveal(taken.stages[name], confirmed) for name in inputs.survivors}
    found = server.unmask(inputs, reveals)
    expected = cohort.plain(names[1:])
    assert {key: value.tolist() for key, value in found.total.items()} == {k: v.tolist() for k, v in expected.items()}


@pytest.mark.parametrize("signed", [False, True])
def test_terms_are_the_same_on_the_other_side(world, signed: bool) -> None:
    session = world(4, signed=signed).session
    found = read_session(write_session(session))
    assert found.digest == session.digest
    assert found.needed == session.needed


@pytest.mark.parametrize("shape", [[-1], [2, -3]])
def test_no_shape_is_below_zero(world, shape: list[int]) -> None:
    facts = json.loads(write_session(world(4).session))
    with pytest.raises(RunError, match="has a dimension below 0"):
        read_session(json.dumps({**facts, "layout": [["x", shape, "float64", 24]]}))


def test_terms_that_are_nested_without_end_are_refused() -> None:
    with pytest.raises(RunError, match="damaged"):
        read_session("[" * 100_000)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"run": 1}', '{"is": "shared"}', "\ud800"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="damaged"):
        read_session(text)
    with pytest.raises(RunError, match="damaged"):
        read_stage(text)


@pytest.mark.parametrize("change", [{"clients": ["a", "b"]}, {"threshold": 2}, {"clients": ["b", "a", "c", "d"]}])
def test_terms_that_no_sum_can_have_are_refused(world, change: dict) -> None:
    facts = json.loads(write_session(world(4).session))
    with pytest.raises(RunError, match="refused the terms of a masked sum"):
        read_session(json.dumps({**facts, **change}))

import json

import pytest
from toydata import toy_dataset

from fedbraid.data import load_partition, make_partition, make_stream, partition_text
from fedbraid.errors import UserError

DATA = toy_dataset([0, 1] * 20)


@pytest.fixture
def partition():
    return make_partition(DATA, make_stream(2), kind="dirichlet", clients=3, min_samples=1)


@pytest.fixture
def file(tmp_path, partition):
    path = tmp_path / "partition.json"
    path.write_text(partition_text(partition))
    return path


def test_round_trip(file, partition):
    assert load_partition(file, DATA.fingerprint) == partition
    assert [path.name for path in file.parent.iterdir()] == ["partition.json"]


def test_another_data_set(file):
    with pytest.raises(UserError, match="another data set"):
        load_partition(file, "0" * 64)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_partition(tmp_path / "none.json", DATA.fingerprint)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": "other"}'])
def test_a_file_of_another_kind(file, text):
    file.write_text(text)
    with pytest.raises(UserError, match=r"partition\.json (cannot be read|is not a partition file)"):
        load_partition(file, DATA.fingerprint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": {"0": [0, 1], "1": [1]}}, "sample 1 is owned by client 0 and by client 1"),
        ({"clients": {"0": [3, 3]}}, "sample 3 is owned"),
        ({"clients": {"0": [40]}}, "sample 40 of 40"),
        ({"clients": {"0": [-1]}}, "sample -1 of 40"),
        ({"clients": {"0": ["1"]}}, "damaged"),
        ({"clients": {"0": [True]}}, "damaged"),
        ({"clients": {"0": []}}, "damaged"),
        ({"clients": {"test": [0]}}, "damaged"),
        ({"clients": {}}, "damaged"),
        ({"clients": [[0]]}, "damaged"),
        ({"samples": "40"}, "damaged"),
        ({"kind": None}, "damaged"),
    ],
)
def test_a_damaged_file(file, change, message):
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        load_partition(file, DATA.fingerprint)

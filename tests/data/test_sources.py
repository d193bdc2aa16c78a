import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from fedbraid.data import DATASETS, load
from fedbraid.errors import UserError


@pytest.fixture
def assets() -> Path:
    folder = os.environ.get("FEDBRAID_ASSETS")
    if not folder:
        pytest.skip("FEDBRAID_ASSETS does not name the folder of real data")
    return Path(folder)


def test_the_registry_agrees_with_itself():
    for name, source in DATASETS.items():
        assert name == source.name
        assert 1 <= source.tasks <= source.classes


def test_digits():
    digits = load("digits")
    assert digits.class_names == tuple("0123456789")
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    share = digits.test.labels.bincount() / (digits.test.labels.bincount() + digits.train.labels.bincount())
    assert (share - 0.2).abs().max() < 0.005
    assert digits.fingerprint == load("digits", seed=9).fingerprint


def test_classes_keep_the_order_of_the_data_set():
    assert load("digits", classes=3).class_names == ("0", "1", "2")
    assert load("digits", classes=["7", 2]).class_names == ("2", "7")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("zzz", "known are digits, cifar100"),
        ("./none", "no file or folder"),
    ],
)
def test_an_unknown_name(name, message):
    with pytest.raises(UserError, match=message):
        load(name)


def test_a_missing_folder():
    with pytest.raises(UserError, match=r"data\.path: there is no"):
        load("cifar100", path="/nowhere")
    with pytest.raises(UserError, match=r"leave data\.path out"):
        load("digits", path=".")


def test_what_to_do_without_a_hub(monkeypatch):
    import datasets

    def offline(*args: object, **options: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"uoft-cs/cifar100.*offline.*HF_HOME.*--set data\.path="):
        load("cifar100")


def test_the_hub_is_read_by_the_columns_of_the_source(monkeypatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "intent": datasets.ClassLabel(names=["pay", "oos", "call"])}
    )
    table = datasets.Dataset.from_dict({"text": list("abcd"), "intent": [0, 1, 2, 0]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, config, split: [table, table])
    data = load("clinc150")
    assert data.class_names == ("call", "pay")
    assert data.train.texts == ("a", "c", "d")
    assert data.test.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("inner", ["", "data"])
def test_a_local_copy_may_be_the_hubs_repository(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    pixels = io.BytesIO()
    Image.new("L", (4, 4)).save(pixels, "PNG")
    import datasets

    table = datasets.Dataset.from_dict({"image": [pixels.getvalue()] * 4, "label": [0, 1, 0, 1]})
    for split in ("train", "test"):
        table.to_parquet(tmp_path / inner / f"{split}-00000-of-00001.parquet")
    data = load("eurosat", path=tmp_path)
    assert (data.name, len(data.train), len(data.test)) == ("eurosat", 4, 4)
    with pytest.raises(UserError, match=r"no column 'img'.*data\.image_column"):
        load("cifar100", path=tmp_path / inner)
    (tmp_path / "archive.zip").touch()
    with pytest.raises(UserError, match=r"archive\.zip: files of this kind"):
        load("cifar100", path=tmp_path / "archive.zip")


def test_clinc_reads_its_own_file(tmp_path):
    content = {"train": [["a", "x"], ["b", "y"]], "test": [["c", "y"]], "oos_test": [["d", "oos"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(content))
    data = load("clinc150", path=tmp_path)
    assert (data.class_names, data.train.texts, data.test.labels.tolist()) == (("x", "y"), ("a", "b"), [1])
    for damaged in ("{", '{"train": []}', '{"train": [["a"]], "test": []}'):
        (tmp_path / "data_full.json").write_text(damaged)
        with pytest.raises(UserError, match="cannot be read as CLINC150"):
            load("clinc150", path=tmp_path)


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "folder", "train", "test", "shape"),
    [
        ("cifar100", "cifar100", 50_000, 10_000, (3, 32, 32)),
        ("eurosat", "eurosat_subset", 3_000, 1_000, (3, 64, 64)),
        ("clinc150", "clinc150", 15_000, 4_500, None),
    ],
)
def test_real_data(assets, name, folder, train, test, shape):
    data = load(name, path=assets / folder)
    assert len(data.class_names) == DATASETS[name].classes
    assert (len(data.train), len(data.test)) == (train, test)
    assert data.train.labels.bincount().min() > 0
    if shape:
        assert data.train.images.shape[1:] == shape

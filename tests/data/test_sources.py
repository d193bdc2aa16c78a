import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from fedbraid.data import DATASETS, load, make_stream
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


def test_the_page_has_a_row_for_every_data_set():
    rows = (Path(__file__).parents[2] / "docs" / "data.md").read_text().splitlines()
    for source in DATASETS.values():
        (row,) = (row for row in rows if row.startswith(f"| `{source.name}` |"))
        for words in (source.origin, source.hub, source.page, source.licence, f"{source.classes}, {source.tasks}"):
            assert (words or "") in row


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
        ("zzz", "known are digits, cifar10,"),
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


@pytest.fixture
def hub(monkeypatch):
    """Puts tables in the place of the hub's, by split; the list that comes back fills with what is asked for."""
    import datasets

    asked = []

    def serve(**tables):
        def load_dataset(name, config, split):
            asked.append((name, config, split))
            return [tables[one] for one in split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def encoded(value: int = 0) -> bytes:
    pixels = io.BytesIO()
    Image.new("L", (4, 4), value).save(pixels, "PNG")
    return pixels.getvalue()


def table(label, names=None, **columns):
    """A table with a column of labels, given by number where it declares their names."""
    import datasets

    kinds = {key: datasets.Value("binary" if key in ("image", "img") else "string") for key in columns}
    kinds[label] = datasets.ClassLabel(names=names) if names else datasets.Value("string")
    labels = [0, 1, 2, 0, 1, 2] if names else list("bacbac")
    return datasets.Dataset.from_dict({**columns, label: labels}, features=datasets.Features(kinds))


IMAGES = [encoded(value) for value in range(6)]


def test_the_hub_is_read_by_the_columns_of_the_source(hub):
    clinc = table("intent", ["pay", "oos", "call"], text=list("abcdef"))
    assert hub(train=clinc, test=clinc) == []
    data = load("clinc150")
    assert data.class_names == ("call", "pay")
    assert data.train.texts == ("a", "c", "d", "f")
    assert data.test.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "splits", "columns", "classes"),
    [
        ("cifar10", ["train", "test"], {"label": "label", "names": list("zyx"), "img": IMAGES}, ("z", "y", "x")),
        (
            "tiny_imagenet",
            ["train", "valid"],
            {"label": "label", "names": list("zyx"), "image": IMAGES},
            ("x", "y", "z"),
        ),
        ("imagenet_r", ["test"], {"label": "wnid", "image": IMAGES, "class_name": list("uvwuvw")}, ("a", "b", "c")),
        ("imagenet_a", ["train"], {"label": "label", "names": list("zyx"), "image": IMAGES}, ("x", "y", "z")),
        (
            "imagenet_subset",
            ["train", "validation"],
            {"label": "label", "names": list("zyx"), "image": IMAGES},
            tuple("zyx"),
        ),
        ("cub200", ["train", "test"], {"label": "label", "names": list("zyx"), "image": IMAGES}, ("z", "y", "x")),
        ("newsgroups20", ["train", "test"], {"label": "label_text", "text": list("abcdef")}, ("a", "b", "c")),
    ],
)
def test_each_hub_has_its_splits_and_columns(hub, name, splits, columns, classes):
    asked = hub(**{split: table(**columns) for split in splits})
    data = load(name)
    assert asked == [(DATASETS[name].hub, DATASETS[name].tables.config, splits)]
    assert data.class_names == classes
    assert ("no test split" in data.note) == (len(splits) == 1)


def test_texts_may_be_blank_where_the_source_says_so(hub):
    hub(
        train=table("label_text", text=["a", " ", "", "d", "e", "f"]),
        test=table("label_text", text=[*"uvwxy", ""]),
    )
    data = load("newsgroups20")
    assert (data.train.texts, data.test.texts) == (tuple("adef"), tuple("uvwxy"))
    assert data.note == "3 samples without text left out"
    hub(train=table("intent", text=["a", " ", "", "d", "e", "f"]), test=table("intent", text=list("uvwxyz")))
    with pytest.raises(UserError, match="clinc_oos train, row 2: the text is empty"):
        load("clinc150")


@pytest.mark.parametrize(
    ("name", "files", "columns"),
    [
        ("tiny_imagenet", {"train": 6, "valid": 6}, {"label": "label", "names": list("zyx"), "image": IMAGES}),
        ("imagenet_r", {"test": 5}, {"label": "wnid", "image": IMAGES}),
        ("imagenet_subset", {"train": 6, "validation": 6}, {"label": "label", "names": list("zyx"), "image": IMAGES}),
    ],
)
def test_a_local_copy_of_the_hub_has_the_same_splits(tmp_path, name, files, columns):
    (tmp_path / "data").mkdir()
    for split in {*files, "test"}:
        table(**columns).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    data = load(name, path=tmp_path, test_fraction=0.5)
    assert len(data.train) + len(data.test) == (12 if len(files) == 2 else 6)


def test_images_of_a_table_are_read_when_they_are_decoded(tmp_path):
    broken = [*IMAGES[:5], b"no image"]
    table("label", ["x", "y", "z"], image=broken).to_parquet(tmp_path / "train.parquet")
    table("label", ["x", "y", "z"], image=IMAGES).to_parquet(tmp_path / "test.parquet")
    assert len(load("eurosat", path=tmp_path, classes=2).train) == 4
    with pytest.raises(UserError, match=r"train\.parquet, row 6: the image cannot be read"):
        load("eurosat", path=tmp_path)


@pytest.mark.parametrize("inner", ["", "data"])
def test_a_local_copy_may_be_the_hubs_repository(tmp_path, inner):
    (tmp_path / inner).mkdir(exist_ok=True)
    rows = table("label", image=IMAGES)
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / inner / f"{split}-00000-of-00001.parquet")
    data = load("eurosat", path=tmp_path)
    assert (data.name, len(data.train), len(data.test)) == ("eurosat", 6, 6)
    with pytest.raises(UserError, match=r"no column 'img'.*data\.image_column"):
        load("cifar100", path=tmp_path / inner)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"there is no .*notes\.txt.*cifar-100-binary"):
        load("cifar100", path=tmp_path / "notes.txt")


def test_cars_come_in_nine_tasks_of_twenty_classes_and_one_of_sixteen():
    cars = DATASETS["cars196"]
    assert [len(task.classes) for task in make_stream(cars.classes, tasks=cars.tasks).tasks] == [20] * 9 + [16]


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
        ("sst2", "text/sst2", 6_920, 872, None),
        ("cola", "text/cola", 8_551, 1_043, None),
        ("mrpc", "text/mrpc", 3_576, 1_725, None),
    ],
)
def test_real_data(assets, name, folder, train, test, shape):
    data = load(name, path=assets / folder)
    assert len(data.class_names) == DATASETS[name].classes
    assert (len(data.train), len(data.test)) == (train, test)
    assert data.train.labels.bincount().min() > 0
    if shape:
        assert data.train.images.shape[1:] == shape

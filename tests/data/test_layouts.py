import shutil
import tarfile

import pytest
import torch
from published import LAYOUTS as OTHERS
from published import MACHINE, TEST, TRAIN, cars, cifar10, cub, imagenet_1k, newsgroups, picture, text
from published_glue import GLUE_LAYOUTS
from published_prompts import PROMPT_LAYOUTS

from fedbraid.data import DATASETS, load
from fedbraid.errors import UserError

LAYOUTS = OTHERS + GLUE_LAYOUTS + PROMPT_LAYOUTS
IMAGES = [layout for layout in LAYOUTS if layout.modality == "image"]
PARTS = [(layout, part) for layout in LAYOUTS for part in layout.parts]


def named(layout, part=""):
    return "-".join(filter(None, (layout.write.__name__, layout.name, part.replace("/", "-"))))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_every_set_that_is_published_has_its_layout_here():
    assert {layout.name for layout in LAYOUTS} == {name for name, source in DATASETS.items() if source.read}


@pytest.mark.parametrize("layout", IMAGES, ids=named)
def test_images_have_the_labels_of_their_content(layout, tmp_path):
    layout.write(tmp_path)
    data = load(layout.name, path=tmp_path)
    assert (data.name, data.modality, data.class_names) == (layout.name, "image", layout.classes)
    for table, split in ((data.train, TRAIN), (data.test, TEST if layout.split else TRAIN)):
        expected = 60 * table.labels.view(-1, 1, 1, 1) + split
        assert (table.images - expected).abs().max() <= 2
        assert table.labels.unique().tolist() == [0, 1, 2]
    assert ("no test split" in data.note) != layout.split


@pytest.mark.parametrize("layout", LAYOUTS, ids=named)
def test_the_top_folder_may_be_named_itself(layout, tmp_path):
    layout.write(tmp_path)
    above, below = (load(layout.name, path=path) for path in (tmp_path, tmp_path / layout.top))
    assert above.fingerprint == below.fingerprint


@pytest.mark.parametrize("layout", LAYOUTS, ids=named)
def test_an_archive_reads_like_its_folder(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    layout.write(tmp_path / "plain")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        for path in (tmp_path / "plain").iterdir():
            archive.add(path, path.name)
    packed = load(layout.name, path=tmp_path / "packed.tar.gz")
    assert packed.fingerprint == load(layout.name, path=tmp_path / "plain").fingerprint


@pytest.mark.parametrize(("layout", "part"), PARTS, ids=[named(*case) for case in PARTS])
def test_a_part_that_is_missing_is_named_with_where_to_get_it(layout, part, tmp_path):
    layout.write(tmp_path)
    remove(tmp_path / layout.top / part)
    with pytest.raises(UserError) as caught:
        load(layout.name, path=tmp_path)
    message, source = str(caught.value), DATASETS[layout.name]
    missing = str(tmp_path / layout.top / part)
    for words in (missing, source.layout, source.page, "--set data.path=FOLDER", source.hub):
        assert words in message


@pytest.mark.parametrize("name", sorted({layout.name for layout in LAYOUTS}))
def test_an_empty_folder_is_not_a_data_set(name, tmp_path):
    with pytest.raises(UserError, match=rf"^{name}: (there is no|.* holds no images).*--set data\.path=FOLDER"):
        load(name, path=tmp_path)


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.read])
def test_a_file_in_place_of_a_folder_is_named(name, tmp_path):
    (tmp_path / "own.txt").write_text("no data set")
    with pytest.raises(UserError, match=f"(?i){name}"):
        load(name, path=tmp_path / "own.txt")


def test_an_image_that_is_listed_but_missing_is_named(tmp_path):
    cub(tmp_path)
    remove(next((tmp_path / "CUB_200_2011" / "images").glob("*/Laysan*_0001_1.jpg")))
    with pytest.raises(UserError, match=r"Laysan_Albatross_0001_1\.jpg: the image cannot be read"):
        load("cub200", path=tmp_path)


def test_files_of_no_class_are_left_alone(tmp_path):
    imagenet_1k(tmp_path)
    fingerprint = load("imagenet_subset", path=tmp_path).fingerprint
    for name in ("._n01443537_9.JPEG", "Thumbs.db"):
        (tmp_path / "train" / "n01443537" / name).write_bytes(b"no image")
    (tmp_path / "train" / ".cache").mkdir()
    assert load("imagenet_subset", path=tmp_path).fingerprint == fingerprint


def test_a_flat_validation_folder_needs_its_answers(tmp_path):
    imagenet_1k(tmp_path)
    remove(tmp_path / "val")
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 0, TEST)
    with pytest.raises(UserError, match=r"no folders of classes, and there is no .*LOC_val_solution\.csv"):
        load("imagenet_subset", path=tmp_path)


def test_a_class_of_the_answers_that_has_no_folder_is_named(tmp_path):
    imagenet_1k(tmp_path)
    text(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString", f"ILSVRC2012_val_00000001,{MACHINE} 1 2 3 4")
    with pytest.raises(UserError, match=rf"the test label '{MACHINE}' never occurs in training"):
        load("imagenet_subset", path=tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "."])
def test_the_pickled_version_is_refused(name, tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match=r"Python version.*never opened.*cifar-10-batches-bin, from https://www\.cs"):
        load("cifar10", path=tmp_path / name)


@pytest.mark.parametrize(
    ("write", "name", "file", "content", "message"),
    [
        (cifar10, "cifar10", "cifar-10-batches-bin/test_batch.bin", b"\0" * 3072, "has 3072 bytes, not a multiple"),
        (cifar10, "cifar10", "cifar-10-batches-bin/test_batch.bin", b"", "has 0 bytes"),
        (cifar10, "cifar10", "cifar-10-batches-bin/test_batch.bin", b"\7" * 3073, "has the label 7, but there are 3"),
        (cifar10, "cifar10", "cifar-10-batches-bin/batches.meta.txt", b"\xff\xfe\xfa", "cannot be read as text"),
        (cars, "cars196", "devkit/cars_meta.mat", b"no MATLAB file" * 40, "cannot be read as a MATLAB file"),
        (cars, "cars196", "devkit/cars_train_annos.mat", b"", "cannot be read as a MATLAB file"),
        (cub, "cub200", "CUB_200_2011/images.txt", b"1\n", r"images\.txt, line 1: '1' has one field"),
        (cub, "cub200", "CUB_200_2011/classes.txt", b"1 a\n2 b\n", r"classes\.txt has no line for 3"),
        (cub, "cub200", "CUB_200_2011/train_test_split.txt", b"1 2\n", "image 1 is neither 1 nor 0"),
    ],
)
def test_a_damaged_file_is_named(write, name, file, content, message, tmp_path):
    write(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(name, path=tmp_path)
    assert str(tmp_path / file) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"), [(("fname",), "no 'fname' and 'class'"), (("fname", "class"), "class 9")]
)
def test_annotations_of_cars_are_checked(fields, message, tmp_path):
    import numpy as np
    from scipy.io import savemat

    cars(tmp_path)
    rows = [tuple({"fname": "00001.jpg", "class": 9}[field] for field in fields)] * 2
    table = np.array([rows], dtype=[(field, object) for field in fields])
    savemat(tmp_path / "devkit" / "cars_train_annos.mat", {"annotations": table})
    with pytest.raises(UserError, match=message):
        load("cars196", path=tmp_path)


def test_posts_lose_what_names_their_group(tmp_path):
    newsgroups(tmp_path)
    data = load("newsgroups20", path=tmp_path)
    expected = tuple(f"alt.atheism train {number}: naïve\nend of it" for number in (9, 10))
    assert tuple(text.strip() for text in data.train.texts[:2]) == expected
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])
    assert data.note == "1 samples without text left out"


def test_metadata_is_read_without_decoding(tmp_path, monkeypatch):
    from fedbraid.data import decode

    imagenet_1k(tmp_path)
    opened, real = [], decode._opened

    def counted(sample, place):
        opened.append(place)
        return real(sample, place)

    monkeypatch.setattr(decode, "_opened", counted)
    data = load("imagenet_subset", path=tmp_path, classes=2, train_per_class=1, test_per_class=1)
    assert len(data.train) + len(data.test) == 4
    assert len(set(opened)) == 4
    assert torch.equal(data.train.labels, torch.tensor([0, 1]))

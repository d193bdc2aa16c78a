import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fedbraid.data import load
from fedbraid.data.decode import decoded
from fedbraid.errors import UserError
from fedbraid.progress import shown_on


def image(size=(8, 8), mode="RGB", value=7):
    return Image.new(mode, size, value if len(mode) == 1 else (value,) * len(mode))


def encoded(picture: Image.Image, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def folder(root, splits=("",), count=5):
    for split in splits:
        for c, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image(value=10 * c + i).save(root / split / name / f"{i}.png")
    return root


def test_a_folder_of_classes(tmp_path):
    data = load(folder(tmp_path / "pets", count=11))
    assert (data.name, data.modality, data.class_names) == ("pets", "image", ("cat", "dog"))
    assert data.train.images.shape == (18, 3, 8, 8)
    assert data.train.images[:, 0, 0, 0].tolist() == sorted(data.train.images[:, 0, 0, 0].tolist())
    assert data.train.labels.tolist() == [0] * 9 + [1] * 9


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_a_folder_of_splits(tmp_path, test):
    data = load(folder(tmp_path, ("train", test)))
    assert (len(data.train), len(data.test), data.note) == (10, 10, "")


def test_a_table_of_paths(tmp_path):
    folder(tmp_path)
    lines = [f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(5)]
    (tmp_path / "train.csv").write_text("image,label\n" + "\n".join(lines))
    assert load(tmp_path).train.images.shape == (8, 3, 8, 8)
    lines[1] = "cat/99.png,cat"
    (tmp_path / "train.csv").write_text("image,label\n" + "\n".join(lines))
    with pytest.raises(UserError, match=r"train\.csv, row 2: there is no image file .*99\.png"):
        load(tmp_path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_table_of_bytes(tmp_path, wrapped):
    import datasets

    cells = [encoded(image(value=i, mode="L")) for i in range(6)]
    rows = {"image": [{"bytes": c, "path": None} for c in cells] if wrapped else cells, "label": [0, 1] * 3}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "own.parquet")
    data = load(tmp_path / "own.parquet")
    assert data.train.images.shape == (4, 1, 8, 8)


def test_one_size_is_kept_and_several_are_cropped_to_one():
    places = ["a", "b"]
    assert decoded([encoded(image((9, 5))), encoded(image((9, 5)))], places).shape == (2, 3, 5, 9)
    assert decoded([encoded(image((9, 5))), encoded(image((5, 9)))], places, stored_size=4).shape == (
        2,
        3,
        4,
        4,
    )
    assert decoded([encoded(image((9, 5))), encoded(image((9, 5)))], places, stored_size=4).shape == (
        2,
        3,
        4,
        4,
    )


def test_the_middle_is_kept():
    picture = Image.new("L", (30, 10), 0)
    picture.paste(200, (10, 0, 20, 10))
    assert (decoded([encoded(picture), encoded(image(mode="L"))], ["a", "b"], stored_size=10)[0] == 200).all()


def test_grey_stays_grey_only_where_all_are():
    grey, colour = encoded(image(mode="L", value=9)), encoded(image())
    assert decoded([grey, grey], ["a", "b"]).shape[1] == 1
    assert decoded([grey, colour], ["a", "b"])[0].unique().tolist() == [9]


def test_sixteen_bits_keep_their_upper_byte():
    deep = encoded(Image.fromarray(np.full((4, 4), 200 * 256 + 3, dtype=np.uint16)))
    assert decoded([deep], ["a"]).unique().tolist() == [200]


def test_photos_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image((12, 6)), "JPEG", exif=exif)
    assert decoded([turned, turned], ["a", "b"]).shape == (2, 3, 12, 6)


def test_pixels_survive():
    pixels = torch.randint(0, 256, (5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = decoded([encoded(Image.fromarray(pixels.numpy()))], ["a"])
    assert torch.equal(result[0].permute(1, 2, 0), pixels)


def test_what_cannot_be_read_is_named(tmp_path):
    folder(tmp_path)
    whole = (tmp_path / "dog" / "3.png").read_bytes()
    for content in (b"", b"no image", whole[:50]):
        (tmp_path / "dog" / "3.png").write_bytes(content)
        with pytest.raises(UserError, match=r"3\.png: the image cannot be read"):
            load(tmp_path)


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_decompression_bomb_is_refused(side):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(UserError, match="the cell: the image"):
        decoded([bomb], ["the cell"])


def test_an_empty_folder_says_what_is_expected(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="<class>/<image>"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="files of this kind"):
        load(tmp_path / "notes.txt")


def test_decoding_shows_its_progress():
    class Display:
        steps = 0

        def begin(self, what, total):
            return 0

        def advance(self, loop):
            self.steps += 1

        def end(self, loop):
            pass

    display = Display()
    with shown_on(display):
        decoded([encoded(image())] * 4, list("abcd"))
    assert display.steps == 8

"""A data folder is read where it lies: what leads out of it, in a circle or to no file is named, and nothing waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fedbraid.data import load
from fedbraid.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of five images, beside another folder with one."""
    for place in [*(f"own/{name}/{number}.png" for name in "ab" for number in range(5)), "other/c/0.png"]:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * len(place)).save(path)
    return tmp_path / "own"


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


LEADS_OUT = {
    "the disk": lambda root: (root / "all").symlink_to("/"),
    "the parent": lambda root: (root / "up").symlink_to(root.parent),
    "another folder": lambda root: (root / "c").symlink_to(root.parent / "other" / "c"),
    "another file": lambda root: (root / "a" / "9.png").symlink_to(root.parent / "other" / "c" / "0.png"),
    "a split": lambda root: (root / "train").symlink_to(root.parent / "other"),
}
IN_A_CIRCLE = {
    "the folder itself": lambda root: (root / "loop").symlink_to(root),
    "by a detour": lambda root: (root / "loop").symlink_to(root / "a" / ".." / "." / ".." / "own"),
}
NO_FILE = {
    "a pipe": lambda root: os.mkfifo(root / "a" / "9.png"),
    "a socket": lambda root: _socket(root / "a" / "9.png"),
}


@pytest.mark.parametrize("lay", LEADS_OUT.values(), ids=LEADS_OUT)
def test_a_link_that_leads_out_is_named(images: Path, lay: Callable[[Path], None]) -> None:
    lay(images)
    with pytest.raises(UserError, match=r"is a link that leads out of .*own.*; copy what it leads to, or remove it"):
        load(images)


@pytest.mark.parametrize("lay", IN_A_CIRCLE.values(), ids=IN_A_CIRCLE)
def test_a_link_to_what_holds_it_is_named(images: Path, lay: Callable[[Path], None]) -> None:
    lay(images)
    with pytest.raises(UserError, match=r"loop is a link that leads to .*own, which holds it; remove it"):
        load(images)


@pytest.mark.parametrize("lay", NO_FILE.values(), ids=NO_FILE)
def test_what_is_no_file_among_images_is_named(images: Path, lay: Callable[[Path], None]) -> None:
    lay(images)
    with pytest.raises(UserError, match=r"9\.png is neither a file nor a folder"):
        load(images)


def test_a_device_in_the_place_of_an_image_is_not_read(images: Path) -> None:
    (images / "a" / "9.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="leads out of"):
        load(images)


def test_links_inside_are_followed_and_circles_below_are_not(images: Path) -> None:
    (images / "c").symlink_to(images / "a")
    (images / "b" / "loop").symlink_to(images / "b")
    (images / "b" / "9.png").symlink_to(images / "a" / "0.png")
    (images / "self").symlink_to(images / "self")
    found = load(images)
    assert found.class_names == ("a", "b", "c")
    assert len(found.train) + len(found.test) == 5 + 6 + 5


def test_a_folder_that_is_named_by_a_link_is_read(images: Path) -> None:
    (images.parent / "named").symlink_to(images)
    assert load(images.parent / "named").class_names == ("a", "b")


def test_a_table_that_is_a_link_stays_inside(tmp_path: Path) -> None:
    table = "text,label\n" + "".join(f"a {number},{number % 2}\n" for number in range(10))
    (tmp_path / "elsewhere.csv").write_text(table)
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "held.csv").write_text(table)
    (folder / "train.csv").symlink_to(folder / "held.csv")
    assert load(folder).class_names == ("0", "1")
    (folder / "test.csv").symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(UserError, match=r"test\.csv is a link that leads out"):
        load(folder)
    (folder / "test.csv").unlink()
    os.mkfifo(folder / "test.csv")
    assert load(folder).class_names == ("0", "1")


def test_a_pipe_in_the_place_of_a_known_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data_full.json")
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        load("clinc150", path=tmp_path)


def test_a_class_whose_name_is_no_text_is_named(images: Path) -> None:
    os.rename(os.fsencode(images / "a"), os.fsencode(images) + b"/a\xff")
    with pytest.raises(UserError, match=r"folder a\\udcff has a name that is no text"):
        load(images)

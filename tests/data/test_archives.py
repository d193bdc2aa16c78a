import io
import random
import stat
import tarfile
import zipfile

import pytest

from fedbraid.data import archives, load
from fedbraid.data.archives import Limits, is_archive, unpacked
from fedbraid.errors import UserError

FILES = {"top/a.txt": b"one", "top/inner/b.txt": b"two", "c.txt": b""}
LINKS = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE}
UNSAFE = ("/etc/passwd", "../out", "top/../../out", "C:/out", "top/c:out", "top\\out", "..\\out", "new\nline")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedbraid" / "archives"


def packed(path, files=FILES):
    """An archive with these files, of the kind that the name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def content_of(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def leftovers(cache):
    return [path.name for path in cache.iterdir()] if cache.exists() else []


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.TGZ"])
def test_every_kind_is_unpacked_into_the_cache(tmp_path, cache, name):
    archive = packed(tmp_path / name)
    assert is_archive(archive)
    folder = unpacked(archive)
    assert folder.parent == cache
    assert content_of(folder) == FILES
    assert leftovers(cache) == [folder.name]


def test_folders_and_names_with_dots_are_welcome(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (".", "./empty"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        file = tarfile.TarInfo("./..a/b..c")
        archive.addfile(file, io.BytesIO())
    folder = unpacked(tmp_path / "a.tar")
    assert (folder / "empty").is_dir()
    assert (folder / "..a" / "b..c").is_file()


def test_an_archive_is_unpacked_once_until_it_changes(tmp_path):
    archive = packed(tmp_path / "a.zip")
    first = unpacked(archive)
    (first / "mark").touch()
    assert (unpacked(archive) / "mark").exists()
    assert content_of(unpacked(packed(archive, {"other": b"x"}))) == {"other": b"x"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leads_out_is_refused(tmp_path, cache, kind, name):
    with pytest.raises(UserError, match="a name that can lead out of its folder"):
        unpacked(packed(tmp_path / f"a.{kind}", {"first": b"x", name: b"evil"}))
    assert leftovers(cache) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{kind}", "cache"]


@pytest.mark.parametrize("name", LINKS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, cache, name):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = LINKS[name], "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="a link or a device"):
        unpacked(tmp_path / "a.tar")
    assert leftovers(cache) == []


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="a link or a device"):
        unpacked(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(files=2), "more than 2 files"),
        (Limits(file_bytes=2), "more than it may, at 'top/a.txt'"),
        (Limits(total_bytes=5), "more than it may, at 'top/inner/b.txt'"),
    ],
)
def test_too_much_is_refused(tmp_path, cache, kind, limits, message):
    with pytest.raises(UserError, match=message):
        unpacked(packed(tmp_path / f"a.{kind}"), limits)
    assert leftovers(cache) == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_compression_bomb_is_refused(tmp_path, cache, kind, monkeypatch):
    monkeypatch.setattr(archives, "_GIB", 2**20)
    with pytest.raises(UserError, match="unpacks to more than it may"):
        unpacked(packed(tmp_path / f"a.{kind}", {"zeros": bytes(8 * 2**20)}))
    assert leftovers(cache) == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.4, 0.7])
def test_a_damaged_archive_is_named(tmp_path, cache, name, keep):
    noise = random.Random(0).randbytes(3000)
    archive = packed(tmp_path / name, {f"noise{i}": noise for i in range(9)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UserError, match=r"cannot be unpacked.*Get the archive anew.*--set data\.path=FOLDER"):
        unpacked(archive)
    assert leftovers(cache) == []


def test_a_damaged_header_is_not_the_end(tmp_path):
    archive = packed(tmp_path / "a.tar")
    content = bytearray(archive.read_bytes())
    content[1024:1032] = b"\xffdamaged"
    archive.write_bytes(content)
    with pytest.raises(UserError, match="ends before its end mark"):
        unpacked(archive)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b")])
def test_files_that_stand_in_each_others_way_are_refused(tmp_path, names):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpacked(tmp_path / "a.tar")


def test_an_interrupted_unpacking_is_not_used(tmp_path, cache, monkeypatch):
    archive = packed(tmp_path / "a.zip")

    def interrupted(source, file, room):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_copied", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpacked(archive)
    assert leftovers(cache) == []
    assert content_of(unpacked(archive)) == FILES


def test_two_processes_may_unpack_at_once(tmp_path, monkeypatch):
    archive, copy = packed(tmp_path / "a.zip"), archives._copied

    def meanwhile(source, file, room):
        monkeypatch.setattr(archives, "_copied", copy)
        unpacked(archive)
        return copy(source, file, room)

    monkeypatch.setattr(archives, "_copied", meanwhile)
    assert content_of(unpacked(archive)) == FILES


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        unpacked(packed(tmp_path / "a.zip"))


def test_data_of_ones_own_may_be_an_archive(tmp_path):
    rows = "".join(f"text {i},{'yes' if i % 2 else 'no'}\n" for i in range(10))
    archive = packed(tmp_path / "own.zip", {"train.csv": f"text,label\n{rows}".encode()})
    data = load(archive)
    assert (data.name, data.class_names) == ("own", ("no", "yes"))

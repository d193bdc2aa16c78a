"""A party's own key in its own file."""

import stat
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid.errors import UserError
from fedbraid.runtimes.identity import FILE, make_identity, read_identity
from fedbraid.secure.ciphers import identity_of


def test_a_key_is_made_once_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    assert read_identity(tmp_path) is None
    public = make_identity(tmp_path)
    private = read_identity(tmp_path)
    assert private is not None
    assert identity_of(private).hex() == public == make_identity(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert make_identity(tmp_path / "other") != public


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    make_identity(tmp_path)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_identity(tmp_path)
    (tmp_path / FILE).chmod(0o600)
    for text in ("", "zz", "00" * 31):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(UserError, match="holds no key of 32 bytes"):
            read_identity(tmp_path)

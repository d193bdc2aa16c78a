"""20 Newsgroups, split by date, as published by Jason Rennie: a folder a group, a file a post, in Latin-1.

Headers, signatures and quotations name authors and groups, so they would give the class away; they are left out as
scikit-learn does with remove=("headers", "footers", "quotes"), by its own functions. Some posts are empty then.
"""

from __future__ import annotations

from pathlib import Path

from fedbraid.data.files import MissingFile, inside, need, ordinary, within
from fedbraid.data.rows import Rows, Splits, natural
from fedbraid.progress import track


def newsgroups(path: Path) -> Splits:
    """The posts before and after a date, by group."""
    root = inside(path, "20news-bydate")
    train, test = (_posts(need(root / f"20news-bydate-{split}")) for split in ("train", "test"))
    return Splits(train, test)


def _posts(root: Path) -> Rows:
    groups = [within(group, root) for group in root.iterdir() if group.is_dir()]
    names = [(group.name, within(post, root).name) for group in groups for post in group.iterdir()]
    if not names:
        raise MissingFile(f"{root} holds no posts in folders named by their groups: {root.name}/<group>/<number>")
    files = {f"{group}/{post}": group for group, post in names}
    order = natural(files)
    texts = tuple(_text(root / name) for name in track(order, "reading posts"))
    return Rows(texts, tuple(files[name] for name in order), tuple(f"{root.name}/{name}" for name in order))


def _text(file: Path) -> str:
    from sklearn.datasets._twenty_newsgroups import (
        strip_newsgroup_footer,
        strip_newsgroup_header,
        strip_newsgroup_quoting,
    )

    post = strip_newsgroup_header(ordinary(file).read_bytes().decode("latin-1"))
    return strip_newsgroup_quoting(strip_newsgroup_footer(post))

"""A data set of one's own: train/<topic>.txt and test/<topic>.txt, one sample a line.

fedbraid run --data examples/my_dataset.py:TOPICS --set data.path=FOLDER --backbone ...
"""

from pathlib import Path

from fedbraid.data import Rows, Source, Splits
from fedbraid.errors import UserError


def read_topics(folder: Path) -> Splits:
    """The lines of both splits, each labelled by the name of its file."""
    return Splits(train=read_lines(folder / "train"), test=read_lines(folder / "test"))


def read_lines(folder: Path) -> Rows:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder} has no .txt files; put one there for each topic, such as sport.txt")
    lines = [(line, file.stem) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return Rows.of([(line, topic) for line, topic in lines if line.strip()], place=str(folder))


TOPICS = Source(name="topics", modality="text", classes=4, tasks=2, read=read_topics)

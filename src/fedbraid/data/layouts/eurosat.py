"""EuroSAT, the RGB version, as its authors publish it: a folder a class, and no split."""

from __future__ import annotations

from pathlib import Path

from fedbraid.data.files import inside, need_folder
from fedbraid.data.folders import class_folders
from fedbraid.data.rows import Splits


def eurosat(path: Path) -> Splits:
    """All images; the top folder is 2750 in the first release and EuroSAT_RGB in the later ones."""
    return Splits(class_folders(need_folder(inside(path, "EuroSAT_RGB", "2750"))))

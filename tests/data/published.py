"""Tiny data sets in the exact layouts that their authors publish, written for the tests of this folder.

Every image is plain and tells its class and its split: 60 times the class, and 20 more for training, 40 for testing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, TEST = 20, 40
GOLDFISH, SHARK, CRANE, MACHINE = "n01443537", "n01484850", "n02012849", "n03126707"


@dataclass(frozen=True)
class Layout:
    """A data set's name, what writes it, its top folder, the classes in order, and the parts that it cannot lack."""

    name: str
    write: Callable[[Path], None]
    top: str
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    split: bool = True
    modality: str = "image"


def picture(file: Path, number: int, split: int, size: tuple[int, int] = (8, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (60 * number + split,) * 3).save(file, "JPEG")


def folders(root: Path, names: Iterable[str], split: int = TRAIN, inner: str = "", count: int = 4) -> None:
    """Folders of classes; numbers 9 and 10 tell a sorting by number from one by letter."""
    for number, name in enumerate(names):
        for index in range(9, 9 + count):
            picture(root / name / inner / f"{name}_{index}.JPEG", number, split)


def text(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def records(file: Path, labels: Iterable[tuple[int, ...]], split: int) -> None:
    """CIFAR's binary records, whose last label is the one that counts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(bytes(label) + bytes([60 * label[-1] + split]) * 3072 for label in labels))


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-bin"
    text(folder / "batches.meta.txt", "airplane", "automobile", "bird", "")
    for number in range(1, 6):
        records(folder / f"data_batch_{number}.bin", [(0,), (1,), (2,)], TRAIN)
    records(folder / "test_batch.bin", [(2,), (1,), (0,)], TEST)


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-binary"
    text(folder / "coarse_label_names.txt", "aquatic_mammals", "fish")
    text(folder / "fine_label_names.txt", "apple", "aquarium_fish", "baby")
    records(folder / "train.bin", [(1, 0), (0, 1), (1, 2), (1, 2)], TRAIN)
    records(folder / "test.bin", [(1, 2), (0, 1), (0, 0)], TEST)


def tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    text(folder / "wnids.txt", CRANE, GOLDFISH, MACHINE)
    names = {GOLDFISH: "goldfish, Carassius auratus", "n00001740": "entity", CRANE: "crane", MACHINE: "crane"}
    text(folder / "words.txt", *(f"{wnid}\t{name}" for wnid, name in names.items()))
    folders(folder / "train", (GOLDFISH, CRANE, MACHINE), inner="images")
    for number, wnid in enumerate((GOLDFISH, CRANE, MACHINE)):
        text(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_9.JPEG\t0\t0\t62\t62")
        picture(folder / "val" / "images" / f"val_{number}.JPEG", number, TEST)
    answers = enumerate((GOLDFISH, CRANE, MACHINE))
    text(folder / "val" / "val_annotations.txt", *(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62" for i, wnid in answers))
    picture(folder / "test" / "images" / "test_0.JPEG", 0, 0)


def renditions(top: str) -> Callable[[Path], None]:
    """ImageNet-R and ImageNet-A: a folder a class and a README that ends with the names."""

    def write(root: Path) -> None:
        folders(root / top, (GOLDFISH, SHARK, CRANE))
        names = (f"{GOLDFISH} goldfish", f"{SHARK} great_white_shark", f"{CRANE} crane")
        text(root / top / "README.txt", "The classes, with their WordNet ids, are:", "", *names)

    return write


def imagenet_1k(root: Path) -> None:
    folders(root / "train", (GOLDFISH, SHARK, CRANE))
    folders(root / "val", (GOLDFISH, SHARK, CRANE), TEST, count=2)


def kaggle(root: Path) -> None:
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    folders(images / "train", (GOLDFISH, SHARK, CRANE))
    text(root / "LOC_synset_mapping.txt", f"{GOLDFISH} goldfish, Carassius auratus", f"{SHARK} shark", f"{CRANE} crane")
    answers = [f"ILSVRC2012_val_0000000{n},{wnid} 1 2 3 4 " for n, wnid in enumerate((GOLDFISH, SHARK, CRANE))]
    text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *answers)
    for number in range(3):
        picture(images / "val" / f"ILSVRC2012_val_0000000{number}.JPEG", number, TEST)


def eurosat(top: str) -> Callable[[Path], None]:
    return lambda root: folders(root / top, ("AnnualCrop", "Forest", "SeaLake"))


def cars(root: Path) -> None:
    from scipy.io import savemat

    names = np.array(
        ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"], dtype=object
    )
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names.reshape(1, -1)})
    kind = [("bbox_x1", object), ("class", object), ("fname", object)]
    files = {
        "devkit/cars_train_annos.mat": ("cars_train", TRAIN),
        "cars_test_annos_withlabels.mat": ("cars_test", TEST),
    }
    for file, (folder, split) in files.items():
        listed = [(39, number + 1, f"{number + 1:05}.jpg") for number in range(3)]
        savemat(root / file, {"annotations": np.array([listed], dtype=kind)})
        for number in range(3):
            picture(root / folder / f"{number + 1:05}.jpg", number, split)


def cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird")
    images = [f"{name}/{name[4:]}_000{index}_1.jpg" for name in names for index in (1, 2, 3)]
    text(folder / "classes.txt", *(f"{number} {name}" for number, name in enumerate(names, 1)))
    text(folder / "images.txt", *(f"{number} {image}" for number, image in enumerate(images, 1)))
    text(folder / "image_class_labels.txt", *(f"{number + 1} {number // 3 + 1}" for number in range(9)))
    text(folder / "train_test_split.txt", *(f"{number + 1} {int(number % 3 > 0)}" for number in range(9)))
    for number, image in enumerate(images):
        picture(folder / "images" / image, number // 3, TRAIN if number % 3 else TEST)
    text(root / "attributes.txt", "1 has_bill_shape::curved_(up_or_down)")


def clinc(root: Path) -> None:
    text(
        root / "data_full.json",
        '{"train": [["hi", "greet"], ["pay it", "bill"]], "test": [["pay", "bill"]], "oos_test": [["x", "oos"]]}',
    )


def post(file: Path, body: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        f"From: someone@somewhere\nSubject: {file.parent.name}\n\n{body}\n\n--\nsomeone, café\n".encode("latin-1")
    )


def newsgroups(root: Path) -> None:
    for group in ("alt.atheism", "comp.graphics", "sci.space"):
        for split, first in (("train", 9), ("test", 60)):
            for number in (first, first + 1):
                body = f"{group} {split} {number}: naïve\n> quoted\nX writes:\nend of it"
                post(root / f"20news-bydate-{split}" / group / str(number), body)
    post(root / "20news-bydate-train" / "sci.space" / "11", "> all of it is quoted")


IDS = ("goldfish", "great white shark", "crane")
LAYOUTS = (
    Layout(
        "cifar10",
        cifar10,
        "cifar-10-batches-bin",
        ("airplane", "automobile", "bird"),
        ("batches.meta.txt", "data_batch_3.bin", "test_batch.bin"),
    ),
    Layout(
        "cifar100",
        cifar100,
        "cifar-100-binary",
        ("apple", "aquarium_fish", "baby"),
        ("fine_label_names.txt", "train.bin", "test.bin"),
    ),
    Layout(
        "tiny_imagenet",
        tiny_imagenet,
        "tiny-imagenet-200",
        ("goldfish, Carassius auratus", f"crane ({CRANE})", f"crane ({MACHINE})"),
        ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt"),
    ),
    Layout("imagenet_r", renditions("imagenet-r"), "imagenet-r", IDS, (), split=False),
    Layout("imagenet_a", renditions("imagenet-a"), "imagenet-a", IDS, (), split=False),
    Layout("imagenet_subset", imagenet_1k, "", (GOLDFISH, SHARK, CRANE), ("train", "val")),
    Layout(
        "imagenet_subset",
        kaggle,
        "",
        ("goldfish, Carassius auratus", "shark", "crane"),
        ("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val", "LOC_val_solution.csv"),
    ),
    Layout("eurosat", eurosat("2750"), "2750", ("AnnualCrop", "Forest", "SeaLake"), (), split=False),
    Layout("eurosat", eurosat("EuroSAT_RGB"), "EuroSAT_RGB", ("AnnualCrop", "Forest", "SeaLake"), (), split=False),
    Layout(
        "cars196",
        cars,
        "",
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C-V Cargo Van Minivan 2012"),
        (
            "devkit",
            "devkit/cars_meta.mat",
            "devkit/cars_train_annos.mat",
            "cars_train",
            "cars_test_annos_withlabels.mat",
        ),
    ),
    Layout(
        "cub200",
        cub,
        "CUB_200_2011",
        ("001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"),
        ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    ),
    Layout("clinc150", clinc, "", ("bill", "greet"), ("data_full.json",), modality="text"),
    Layout(
        "newsgroups20",
        newsgroups,
        "",
        ("alt.atheism", "comp.graphics", "sci.space"),
        ("20news-bydate-train", "20news-bydate-test"),
        modality="text",
    ),
)

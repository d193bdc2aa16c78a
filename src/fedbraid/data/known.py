"""The data sets known by name, and the user's own: "file.py:NAME"."""

from __future__ import annotations

from collections.abc import Mapping

from fedbraid.data.known_glue import GLUE
from fedbraid.data.known_prompts import PROMPTS
from fedbraid.data.layouts.cars import cars
from fedbraid.data.layouts.cifar import cifar10, cifar100
from fedbraid.data.layouts.clinc import clinc
from fedbraid.data.layouts.cub import cub
from fedbraid.data.layouts.digits import digits
from fedbraid.data.layouts.eurosat import eurosat
from fedbraid.data.layouts.imagenet import imagenet_1k, imagenet_a, imagenet_r, tiny_imagenet
from fedbraid.data.layouts.newsgroups import newsgroups
from fedbraid.data.rows import Columns
from fedbraid.data.sources import HubTables, Source
from fedbraid.errors import UserError
from fedbraid.plugins import is_reference, load_object

_SOURCES = (
    Source(
        name="digits",
        modality="image",
        classes=10,
        tasks=5,
        built_in=digits,
        licence="CC BY 4.0",
        origin="UCI optical recognition of handwritten digits, the copy inside scikit-learn; 8x8 grey",
    ),
    Source(
        name="cifar10",
        modality="image",
        classes=10,
        tasks=5,
        augment="crop_flip",
        read=cifar10,
        layout="the binary version, cifar-10-batches-bin/ with batches.meta.txt, data_batch_*.bin and test_batch.bin",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        hub="uoft-cs/cifar10",
        tables=HubTables(folder="plain_text", columns=Columns(image="img")),
        origin="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
    Source(
        name="cifar100",
        modality="image",
        classes=100,
        tasks=10,
        augment="crop_flip",
        read=cifar100,
        layout="the binary version, cifar-100-binary/ with fine_label_names.txt, train.bin and test.bin",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        hub="uoft-cs/cifar100",
        tables=HubTables(folder="cifar100", columns=Columns(image="img", label="fine_label")),
        origin="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
    Source(
        name="tiny_imagenet",
        modality="image",
        classes=200,
        tasks=10,
        augment="crop_flip",
        read=tiny_imagenet,
        layout="tiny-imagenet-200/ with wnids.txt, words.txt, train/<id>/images/ and val/ with val_annotations.txt",
        page="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        # The hub's classes are ids, the authors' have names: the order is that of the ids in both.
        hub="zh-plus/tiny-imagenet",
        tables=HubTables(folder="data", test="valid", own_order=False),
        origin="Le and Yang 2015, Tiny ImageNet visual recognition challenge; 64x64, tested on its validation images",
    ),
    Source(
        name="imagenet_r",
        modality="image",
        classes=200,
        tasks=10,
        augment="resized_crop_flip",
        read=imagenet_r,
        layout="imagenet-r/ with README.txt and <id>/*.jpg",
        page="https://github.com/hendrycks/imagenet-r",
        # Published as a test set only, so a share of it is held out. Classes as for tiny_imagenet.
        hub="axiong/imagenet-r",
        tables=HubTables(folder="data", train="test", test=None, columns=Columns(label="wnid"), own_order=False),
        origin="Hendrycks et al. 2021, The many faces of robustness; renditions, no split of their own",
    ),
    Source(
        name="imagenet_a",
        modality="image",
        classes=200,
        tasks=10,
        augment="resized_crop_flip",
        read=imagenet_a,
        layout="imagenet-a/ with README.txt and <id>/*.jpg",
        page="https://github.com/hendrycks/natural-adv-examples",
        # All rows are in one split. Classes as for tiny_imagenet.
        hub="barkermrl/imagenet-a",
        tables=HubTables(folder="data", test=None, own_order=False),
        licence="MIT (of the authors' repository)",
        origin="Hendrycks et al. 2021, Natural adversarial examples; no split of their own",
    ),
    Source(
        name="imagenet_subset",
        modality="image",
        classes=200,
        tasks=10,
        # The papers do not state which classes their subset has: the first 200 ids are our choice.
        subset=True,
        augment="resized_crop_flip",
        read=imagenet_1k,
        layout="train/<id>/ and val/<id>/, or Kaggle's ILSVRC/Data/CLS-LOC/ beside LOC_val_solution.csv",
        page="https://image-net.org/download.php",
        # The test rows of the hub have no labels.
        hub="ILSVRC/imagenet-1k",
        tables=HubTables(folder="data", test="validation"),
        licence="ImageNet's terms: non-commercial research and education",
        origin="Russakovsky et al. 2015, ImageNet-1k; subset not stated in the papers, ours: the first 200 ids",
    ),
    Source(
        name="eurosat",
        modality="image",
        classes=10,
        tasks=5,
        augment="flip",
        read=eurosat,
        layout="the RGB version, EuroSAT_RGB/ or 2750/ with <class>/*.jpg",
        page="https://github.com/phelber/EuroSAT",
        hub="timm/eurosat-rgb",
        tables=HubTables(folder="data"),
        licence="MIT",
        origin="Helber et al. 2019, EuroSAT; the RGB version; the hub's splits are those of Neumann et al. 2019",
    ),
    Source(
        name="cars196",
        modality="image",
        classes=196,
        # 9 tasks of 20 classes and one of 16.
        tasks=10,
        augment="resized_crop_flip",
        read=cars,
        layout="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat",
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        hub="tanganke/stanford_cars",
        tables=HubTables(folder="data"),
        licence="see its page",
        origin="Krause et al. 2013, 3D object representations for fine-grained categorization",
    ),
    Source(
        name="cub200",
        modality="image",
        classes=200,
        tasks=10,
        augment="resized_crop_flip",
        read=cub,
        layout="CUB_200_2011/ with images/, images.txt, image_class_labels.txt, train_test_split.txt and classes.txt",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        hub="bentrevett/caltech-ucsd-birds-200-2011",
        tables=HubTables(folder="data"),
        licence="see its page",
        origin="Wah et al. 2011, The Caltech-UCSD Birds-200-2011 dataset",
    ),
    Source(
        name="clinc150",
        modality="text",
        classes=150,
        tasks=10,
        read=clinc,
        layout="data_full.json",
        page="https://github.com/clinc/oos-eval",
        hub="clinc/clinc_oos",
        tables=HubTables("plus", folder="plus", columns=Columns(label="intent"), drop=("oos",), own_order=False),
        licence="CC BY 3.0",
        origin="Larson et al. 2019, An evaluation dataset for intent classification; without out-of-scope",
    ),
    Source(
        name="newsgroups20",
        modality="text",
        classes=20,
        tasks=10,
        read=newsgroups,
        layout="20news-bydate-train/ and 20news-bydate-test/ with <group>/<number>",
        page="http://qwone.com/~jason/20Newsgroups/",
        hub="SetFit/20_newsgroups",
        tables=HubTables(columns=Columns(label="label_text", blank=True), own_order=False),
        origin="Lang 1995, NewsWeeder; split by date, without headers, footers and quotes",
    ),
    *GLUE,
    *PROMPTS,
)

DATASETS: Mapping[str, Source] = {source.name: source for source in _SOURCES}


def holds_prompts(name: str, answer_column: str | None) -> bool:
    """Whether a data set holds prompts with answers: it says so, or the user's own has a column of answers.

    >>> holds_prompts("gsm8k", None), holds_prompts("my.jsonl", "answer"), holds_prompts("my.jsonl", None)
    (True, True, False)
    """
    source = source_of(name)
    return source.modality == "language" if source else answer_column is not None


def source_of(name: str) -> Source | None:
    """The known data set of that name, or the user's own by "file.py:NAME"; None for a name that is neither.

    >>> source_of("cars196").classes, source_of("my.csv")
    (196, None)
    """
    if not is_reference(name):
        return DATASETS.get(name)
    found = load_object(name)
    if not isinstance(found, Source):
        raise UserError(f"{name} is a {type(found).__name__}; a data set of your own is a fedbraid.data.Source")
    return found

"""fed-mammoth's data sets and networks with their flags, and the flags of every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fedbraid.mammoth.rules import (
    Flag,
    Settings,
    always,
    cohort,
    must_be,
    nothing,
    number,
    one_of,
    to,
    unused,
    where,
    whole,
)

PARTITIONS = {
    "distribution": {"partition.kind": "dirichlet", "partition.min_samples": 6},
    "quantity": {"partition.kind": "quantity"},
}
PRECISIONS = {
    word: {"training.precision": own}
    for word, own in {"16-mixed": "fp32", "32": "fp32", "32-true": "fp32", "bf16-mixed": "bf16"}.items()
}
LOGS = {
    "--out names the run's folder": ("nickname", "output_folders_root", "debug_mode"),
    "every run writes its report": ("wandb", "wandb_project", "wandb_entity"),
    "every round is tested on all classes seen": ("test_local", "test_local_transfer", "validation_interval"),
    "every round is saved": ("save_models", "checkpoint_interval"),
}
"""Flags without effect, by what there is instead."""

SHARED = (
    Flag("batch_size", None, to("training.batch_size", whole)),
    Flag("num_comm_rounds", "5", to("training.rounds", whole)),
    Flag("num_epochs", "5", to("training.epochs", whole)),
    Flag("num_clients", "10", to("partition.clients", whole)),
    Flag("participation_rate", "1.0", cohort, "drawn for every round here, for every task there"),
    Flag("partition_mode", "distribution", one_of(PARTITIONS)),
    Flag("random_seed", "42", to("run.seed", whole), "the same number, other random numbers"),
    Flag("precision", "16-mixed", one_of(PRECISIONS), "fp32 stands for fp16, which is not offered"),
    Flag("device", "auto", to("run.device", str), "the default there is cuda:0"),
    Flag("checkpoint", "", must_be("", otherwise="a run of this package is continued by: fedbraid resume RUN")),
    *(Flag(name, "", nothing, f"without effect here: {instead}") for instead, names in LOGS.items() for name in names),
)


@dataclass(frozen=True)
class Data:
    """A data set there: its name here, its tasks, the defaults of its partition, its augmentations by name."""

    name: str
    tasks: int
    alpha: str
    quantity: str
    transforms: Mapping[str, str]
    fixed: Settings = field(default_factory=dict)
    note: str = ""

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Flags whose defaults are the data set's own."""
        augmented = {name: {"data.augment": augment} for name, augment in self.transforms.items()}
        tests = [name.replace("train", "test") for name in self.transforms]
        settings = {"data.name": self.name, "stream.tasks": self.tasks, **self.fixed}
        return (
            Flag("dataset", None, always(settings), self.note),
            Flag(
                "distribution_alpha", self.alpha, where("partition_mode", "distribution", to("partition.beta", number))
            ),
            Flag("class_quantity", self.quantity, where("partition_mode", "quantity", to("partition.alpha", whole))),
            Flag("train_transform", "default_train", one_of(augmented), "pixels are scaled as the backbone asks"),
            Flag("test_transform", "default_test", must_be(*tests, otherwise="images are tested whole")),
        )


CROPS = {"default_train": "resized_crop_flip"}
PLAIN = {"default_train": "none"}
OTHERS = "other samples are held out for testing"

DATA = {
    "seq-cifar10": Data("cifar10", 5, "0.05", "1", PLAIN),
    "seq-cifar100": Data("cifar100", 10, "0.05", "2", CROPS),
    "seq-tinyimagenet": Data("tiny_imagenet", 10, "0.05", "4", CROPS),
    "seq-imagenetr": Data("imagenet_r", 10, "0.05", "4", CROPS, note=OTHERS),
    "seq-imageneta": Data("imagenet_a", 10, "1.0", "4", CROPS, note=OTHERS),
    "seq-eurosat": Data("eurosat", 5, "0.5", "1", {**CROPS, "lorm_iclr_train": "none"}, note=OTHERS),
    "seq-cub200": Data("cub200", 10, "0.5", "1", {"default_train": "crop_flip"}, note="crops are padded, not enlarged"),
    "seq-cars": Data("cars196", 10, "0.2", "2", {"default_train": "flip"}),
    "seq-oos": Data("clinc150", 10, "0.5", "1", PLAIN),
    "seq-oos_5": Data("clinc150", 5, "0.5", "1", PLAIN),
    "seq-oos_3": Data("clinc150", 3, "0.5", "1", PLAIN),
    "seq-20ng": Data("newsgroups20", 10, "0.5", "1", PLAIN, {"backbone.max_length": 512}),
    "seq-20ng_4": Data("newsgroups20", 4, "0.5", "1", PLAIN, {"backbone.max_length": 512}),
}
DATA |= {
    f"joint-{name}": replace(DATA[f"seq-{name}"], tasks=1, note="one task, and federated: the bound is method joint")
    for name in ("cifar100", "tinyimagenet", "imagenetr", "imageneta", "eurosat", "cub200", "oos", "20ng")
}


def timm(text: str) -> str:
    """A vision transformer by its name there."""
    return f"timm:{'vit_base_patch16_224.dino' if text == 'dino' else text}"


def hub(text: str) -> str:
    """A T5 model by its name there."""
    return text if "/" in text else f"google-t5/{text}"


def components(text: str, texts: Mapping[str, str]) -> Settings:
    """The share that every task has of a pool."""
    return {"method.components": whole(text) // DATA[texts["dataset"]].tasks}


def weights(read: Callable[[str], str], default: str, note: str = "") -> tuple[Flag, ...]:
    """The flags that name pre-trained weights."""
    return (
        Flag("network", None, lambda _text, texts: {"backbone.name": read(texts["model_name"])}, note),
        Flag("model_name", default, to("backbone.name", read)),
        PRETRAINED,
    )


AUGREG = "vit_base_patch16_224.augreg_in21k"
PRETRAINED = Flag("pretrained", "True", must_be("True", otherwise="fine-tuning begins with pre-trained weights"))
TASKS = unused("num_tasks", "10")

NETWORKS = {
    "vit": weights(timm, AUGREG),
    "t5": weights(hub, "t5-small", "the decoder begins with T5's own start token, there with another"),
    "vit_l2p": (
        *weights(timm, AUGREG),
        Flag("pool_size", "10", to("method.pool", whole)),
        Flag("prompt_length", "5", to("method.length", whole)),
        Flag("prompt_pool", "True", must_be("True", otherwise="prompts come from a pool")),
        unused("n_prompts", "1"),
        TASKS,
    ),
    "vit_prompt_dual": (
        Flag("network", None, always({"backbone.name": timm(AUGREG)})),
        Flag("model_name", AUGREG, must_be(AUGREG, otherwise="fed-mammoth takes these weights whatever it says")),
        PRETRAINED,
        Flag("prompt_length", "20", to("method.expert_length", whole)),
        unused("pool_size", "100"),
        TASKS,
    ),
    "vit_prompt_coda": (
        *weights(timm, AUGREG),
        Flag("pool_size", "100", components, "of every task here, of all together there"),
        Flag("prompt_length", "8", to("method.length", whole)),
        TASKS,
    ),
}

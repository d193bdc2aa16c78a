"""fed-mammoth's models with their flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedbraid.mammoth.rules import (
    Flag,
    Settings,
    as_head,
    gram,
    inverse,
    must_be,
    nothing,
    number,
    one_of,
    refused,
    reservoir,
    scaled,
    to,
    unless_negative,
    unused,
    whole,
)
from fedbraid.mammoth.tables import TASKS


@dataclass(frozen=True)
class Model:
    """A model there: the method here, its flags, what is fixed there but set here, and the networks it goes with."""

    method: str
    flags: Sequence[Flag]
    fixed: Settings = field(default_factory=dict)
    networks: Sequence[str] = ("vit", "t5")
    note: str = ""


def optimiser(lr: str, decay: str, name: str = "AdamW") -> tuple[Flag, ...]:
    """The flags that all models have, with the model's own defaults."""
    words = {"AdamW": "adamw", "Adam": "adam", "SGD": "sgd"}
    return (
        Flag("lr", lr, to("training.lr", number)),
        Flag("optimizer", name, one_of({word: {"training.optimizer": own} for word, own in words.items()})),
        Flag("wd_reg", decay, to("training.weight_decay", number)),
        Flag("avg_type", "weighted", must_be("weighted", otherwise="clients count by their samples")),
    )


AS_LR = "where negative, --lr"
CLIPPED = "gradients are not clipped"
PROBE = refused("linear_probe", "the head is not trained by itself before")
SLCA = refused("slca", "it is without effect in fed-mammoth; set training.lr_base")
RANK = Flag("r", "16", to("adapter.rank", whole))
HEAD = refused("lora_head", "the head is trained as it is")
UNIT = (unused("lora_alpha", "1"), unused("cl_merge", "individual_mean"))

WHOLE = (*optimiser("3e-4", "0"), PROBE, SLCA)
"""The flags of a model that tunes the whole backbone."""
FULL = {"adapter.kind": "full"}
FISHER = {**FULL, "method.samples": 10**6}
"""A Fisher on all samples."""

PROMPTS = (
    PROBE,
    refused("clip_grads", CLIPPED),
    refused("use_scheduler", "the learning rate does not change"),
)

SQUARE = "T^2 = 4 multiplies the distillation here"

GRAMS = (
    Flag("alpha_regmean_head", "0.5", to("method.head_off_diagonal", number)),
    Flag("alpha_regmean_backbone", "-1", gram, "of A rounds and tasks; in B rounds the Gram is whole here"),
    Flag("regmean_rounds", "1", to("method.gram_passes", whole)),
)
MERGED = (
    Flag("regmean_all", "True", must_be("True", otherwise="all layers are merged in closed form")),
    Flag("only_square", "0", must_be("0", otherwise="all layers are merged in closed form")),
    Flag("train_bias", "all", must_be("all", otherwise="biases are trained or not as the method says")),
    Flag("gram_dtype", "32", nothing, "without effect here: sums are taken in fp64"),
    Flag("reg_dtype_64", "True", nothing, "without effect here: systems are solved in fp64"),
    refused("clip_grad", CLIPPED),
)

LORM = Model(
    "lorm",
    (
        *optimiser("3e-4", "0.1"),
        Flag("lr_B", "-1", unless_negative("training.lr_B"), AS_LR),
        Flag("lr_A", "-1", unless_negative("training.lr_A"), AS_LR),
        RANK,
        *GRAMS,
        Flag("train_matrix", "alt", must_be("alt", otherwise="rounds train B and A in turns")),
        *MERGED,
        HEAD,
        *UNIT,
    ),
    {
        "adapter.kind": "lora",
        "method.gram_model": "averaged",
        "method.gram_data": "augmented",
        "method.head_bias": "averaged",
    },
)

REGMEAN = Model(
    "regmean",
    (
        *optimiser("1e-5", "0.1"),
        Flag("lr_back", "-1", unless_negative("training.lr_base"), AS_LR),
        Flag("alpha_regmean_head", "0.5", to("method.off_diagonal", number)),
        Flag("alpha_regmean_backbone", "-1", as_head),
        Flag("regmean_rounds", "1", must_be("1", otherwise="Grams are taken in one pass")),
        Flag("linear_probe_epochs", "0", must_be("0", otherwise="the server does not see data to train the head on")),
        *MERGED,
    ),
    {**FULL, "method.gram": "full"},
    note="Grams are taken without augmentation",
)

EWC = Model(
    "ewc",
    (
        *WHOLE,
        Flag("ewc_lambda", "1", to("method.strength", scaled(2)), "half of it multiplies the penalty here"),
        Flag("ewc_gamma", "0.9", to("method.gamma", number)),
    ),
    FISHER,
    note="there a sample's part of the Fisher is multiplied by the probability of its label",
)

LWF = Model(
    "lwf",
    (
        *WHOLE,
        Flag("alpha", "0.5", to("method.weight", scaled(1 / 4)), SQUARE),
        Flag("softmax_temp", "2", must_be("2", "2.0", otherwise="fed-mammoth takes 2 whatever it says")),
    ),
    {**FULL, "method.temperature": 2.0},
    note="old classes are distilled; there those of the current task",
)

FEDPROTO = Model(
    "fedproto",
    (*WHOLE, Flag("ld_reg", "0.1", to("method.weight", number), "of the mean over classes; there of the sum")),
    FULL,
    note="clients count by their samples; there all alike",
)

DERPP = Model(
    "derpp",
    (
        *WHOLE,
        Flag("buffer_size", "200", reservoir),
        Flag("alpha", "0.5", to("method.alpha", number)),
        Flag("beta", "0.5", to("method.beta", number)),
    ),
    FULL,
    note="samples are stored at the end of a task; there while it is trained",
)

CCVR = Model(
    "ccvr",
    (
        *optimiser("1e-3", "0"),
        Flag("how_many", "256", to("method.samples", whole)),
        Flag("full_cov", "False", must_be("True", otherwise="the covariances of classes are full here")),
        PROBE,
    ),
    {**FULL, "method.epochs": 5, "method.lr": 0.01, "method.temperature": 0.1},
    note="the head is calibrated after a task, for all classes; there after a round, for the task's",
)

TARGET = Model(
    "target",
    (
        *optimiser("3e-4", "0"),
        Flag("kd_alpha", "25", to("method.weight", scaled(1 / 4)), SQUARE),
        Flag("nums", "8000", nothing, "without effect here: method.images counts the images of a class"),
        Flag("save_dir", "synthetic_data", nothing, "without effect here: images are part of the run's state"),
        TASKS,
        unused("tasks", "10"),
    ),
    {**FULL, "method.temperature": 2.0, "method.batch": 16},
    ("vit",),
    "another generator makes the images",
)


def pilora(rank: str, sharpness: str, *more: Flag) -> Model:
    """PILoRA, of which there are two versions."""
    return Model(
        "pilora",
        (
            *optimiser("3e-4", "1e-5", "Adam"),
            Flag("lr_back", "-1", unless_negative("training.lr_A", "training.lr_B"), AS_LR),
            Flag("r", rank, to("adapter.rank", whole)),
            Flag("temp", "1", to("method.gamma", inverse), "on squared distances here, on distances there"),
            Flag("soft_temp", sharpness, to("method.temperature", inverse), "it multiplies there and divides here"),
            refused("clip_grad", CLIPPED),
            TASKS,
            *more,
        ),
        {"method.start": "random", "method.pace": 1.0, "method.compactness": 0.001, "method.orthogonality": 0.5},
        ("vit",),
        "the updates of all tasks are summed; there is no L1 penalty",
    )


MODELS = {
    "fedavg": Model("fedavg", WHOLE, FULL),
    "fedproto": FEDPROTO,
    "fisheravg": Model("fisheravg", WHOLE, FISHER, note="the labels of the Fisher are drawn from the model's answers"),
    "regmean": REGMEAN,
    "ties_merging": Model(
        "ties", WHOLE, {**FULL, "method.keep": 0.3}, note="the whole merged change is made; there 0.4 of it"
    ),
    "lorm": LORM,
    "ewc": EWC,
    "lwf": LWF,
    "ccvr": CCVR,
    "derpp": DERPP,
    "target": TARGET,
    "pilora": pilora("16", "0.2", HEAD, *UNIT, *(unused(name, "False") for name in ("use_l1", "use_pl", "use_ort"))),
    "pilora3": pilora("4", "5"),
    "l2p": Model(
        "l2p", (*optimiser("1e-3", "0"), PROBE), {"method.top": 5, "method.matching": 0.0}, networks=("vit_l2p",)
    ),
    "dual_prompt": Model(
        "dualprompt",
        (*optimiser("5e-3", "0"), *PROMPTS),
        {"method.general_length": 5, "method.matching": 0.0},
        networks=("vit_prompt_dual",),
    ),
    "coda_prompt": Model(
        "coda_prompt", (*optimiser("1e-3", "0"), *PROMPTS), {"method.orthogonality": 0.0}, networks=("vit_prompt_coda",)
    ),
}

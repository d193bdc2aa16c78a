"""The tasks of GLUE in the exact layouts that are published, a few lines each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from published import Layout, text


def rows_of(columns: str, *rows: str) -> list[str]:
    """A header and rows of GLUE, one word a field."""
    return ["\t".join(line.split()) for line in (columns, *rows)]


def glue(folder: str, columns: str, train: tuple[str, ...], dev: tuple[str, ...], name: str = "dev.tsv"):
    def write(root: Path) -> None:
        text(root / folder / "train.tsv", *rows_of(columns, *train))
        text(root / folder / name, *rows_of(columns, *dev))
        text(root / folder / "test.tsv", "index\tsentence", "0\tno labels")

    write.__name__ = f"glue_{folder}"
    return write


def cola(root: Path) -> None:
    text(root / "CoLA" / "train.tsv", "gj04\t1\t\tShe sang.", "gj04\t0\t*\tSang she sang.")
    text(root / "CoLA" / "dev.tsv", "gj04\t1\t\tHe slept.")


def cola_public(root: Path) -> None:
    raw = root / "cola_public" / "raw"
    text(raw / "in_domain_train.tsv", "gj04\t1\t\tShe sang.", "gj04\t0\t*\tSang she sang.")
    text(raw / "in_domain_dev.tsv", "gj04\t1\t\tHe slept.")
    text(raw / "out_of_domain_dev.tsv", 'clc95\t0\t*\tSlept "he.')


def sst2_bare(root: Path) -> None:
    text(root / "train.tsv", "a fine film\t1", "a dull film\t0")
    text(root / "dev.tsv", "dull\t0")


def mrpc(suffix: str, names: str) -> Callable[[Path], None]:
    """MRPC as its authors publish it: a byte order mark, Windows line ends, quotes that belong to sentences."""

    def write(root: Path) -> None:
        for split, rows in (
            ("train", ('1\t1\t2\tHe said "yes.\tHe agreed.', "0\t3\t4\tOne.\tTwo.")),
            ("test", ("1\t5\t6\tA.\tB.",)),
        ):
            root.mkdir(parents=True, exist_ok=True)
            head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
            content = "".join(f"{line}\r\n" for line in (head, *rows))
            (root / f"{names}{split}{suffix}").write_bytes(content.encode("utf-8-sig"))

    write.__name__ = f"mrpc_{suffix[1:]}"
    return write


GLUE_LAYOUTS = (
    Layout("cola", cola, "CoLA", ("unacceptable", "acceptable"), ("train.tsv", "dev.tsv"), modality="text"),
    Layout(
        "cola",
        cola_public,
        "cola_public/raw",
        ("unacceptable", "acceptable"),
        ("in_domain_train.tsv", "in_domain_dev.tsv", "out_of_domain_dev.tsv"),
        modality="text",
    ),
    Layout(
        "sst2",
        glue("SST-2", "sentence label", ("fine 1", "dull 0"), ("dull 0",)),
        "SST-2",
        ("negative", "positive"),
        ("train.tsv", "dev.tsv"),
        modality="text",
    ),
    Layout("sst2", sst2_bare, "", ("negative", "positive"), ("train.tsv", "dev.tsv"), modality="text"),
    Layout(
        "mrpc",
        mrpc(".txt", "msr_paraphrase_"),
        "",
        ("not_equivalent", "equivalent"),
        ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"),
        modality="text",
    ),
    Layout(
        "mrpc",
        mrpc(".tsv", "msr-para-"),
        "",
        ("not_equivalent", "equivalent"),
        ("msr-para-train.tsv", "msr-para-test.tsv"),
        modality="text",
    ),
    Layout(
        "qnli",
        glue(
            "QNLI",
            "index question sentence label",
            ("0 who she entailment", "1 why he not_entailment"),
            ("0 where there entailment",),
        ),
        "QNLI",
        ("entailment", "not_entailment"),
        ("train.tsv", "dev.tsv"),
        modality="text",
    ),
    Layout(
        "rte",
        glue(
            "RTE",
            "index sentence1 sentence2 label",
            ("0 rain wet entailment", "1 sun wet not_entailment"),
            ("0 snow cold entailment",),
        ),
        "RTE",
        ("entailment", "not_entailment"),
        ("train.tsv", "dev.tsv"),
        modality="text",
    ),
    Layout(
        "qqp",
        glue(
            "QQP",
            "id qid1 qid2 question1 question2 is_duplicate",
            ("1 1 2 who whom 1", "2 3 4 who why 0", "3 5 6 torn"),
            ("1 1 2 how why 0",),
        ),
        "QQP",
        ("not_duplicate", "duplicate"),
        ("train.tsv", "dev.tsv"),
        modality="text",
    ),
    Layout(
        "mnli",
        glue(
            "MNLI",
            "index sentence1 sentence2 label1 gold_label",
            ("0 a b neutral neutral", "1 c d neutral entailment", "2 e f neutral contradiction"),
            ("0 g h entailment neutral",),
            "dev_matched.tsv",
        ),
        "MNLI",
        ("entailment", "neutral", "contradiction"),
        ("train.tsv", "dev_matched.tsv"),
        modality="text",
    ),
    Layout(
        "stsb",
        glue(
            "STS-B",
            "index genre sentence1 sentence2 score",
            ("0 news a b 5.000", "1 news c d 0.250"),
            ("0 news e f 3.8",),
        ),
        "STS-B",
        ("value",),
        ("train.tsv", "dev.tsv"),
        modality="text",
    ),
)

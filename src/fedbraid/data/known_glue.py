"""The tasks of GLUE (Wang et al., ICLR 2019) as known data sets, each with the scores that it is measured by.

The hub and GLUE's own files keep the test labels to themselves, so the validation split is what models are tested on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedbraid.data.layouts import glue
from fedbraid.data.rows import Columns, Splits
from fedbraid.data.sources import HubTables, Source

PAGE = "https://gluebenchmark.com/tasks"


def _task(
    name: str,
    read: Callable[[Path], Splits],
    columns: Columns,
    *,
    classes: int = 2,
    scores: tuple[str, ...] = ("accuracy",),
    test: str = "validation",
    layout: str,
    page: str = PAGE,
    origin: str,
) -> Source:
    return Source(
        name=name,
        modality="text",
        classes=classes,
        tasks=1,
        read=read,
        hub="nyu-mll/glue",
        # GLUE's own files are tables too, of another form.
        tables=HubTables(name, folder=name, test=test, columns=columns, suffix=".parquet"),
        scores=scores,
        layout=layout,
        page=page,
        licence="see its page",
        origin=origin,
    )


GLUE = (
    _task(
        "sst2",
        glue.sst2,
        Columns(text="sentence"),
        layout="SST-2/ with train.tsv and dev.tsv",
        origin="Socher et al. 2013, the Stanford sentiment treebank: the mood of a sentence; tested on validation",
    ),
    _task(
        "cola",
        glue.cola,
        Columns(text="sentence"),
        scores=("matthews",),
        layout="CoLA/ with train.tsv and dev.tsv, or raw/ with in_domain_{train,dev}.tsv and out_of_domain_dev.tsv",
        page="https://nyu-mll.github.io/CoLA/",
        origin="Warstadt et al. 2019, the corpus of linguistic acceptability; tested on validation",
    ),
    _task(
        "mrpc",
        glue.mrpc,
        Columns(text="sentence1", pair="sentence2"),
        scores=("accuracy", "f1"),
        layout="MRPC/ with train.tsv and dev.tsv, or msr_paraphrase_train.txt and msr_paraphrase_test.txt",
        page="https://www.microsoft.com/en-us/download/details.aspx?id=52398",
        origin="Dolan and Brockett 2005, paraphrases in news; tested on validation, or on the authors' test file",
    ),
    _task(
        "qnli",
        glue.qnli,
        Columns(text="question", pair="sentence"),
        layout="QNLI/ with train.tsv and dev.tsv",
        origin="Wang et al. 2019, GLUE, from Rajpurkar et al. 2016: answers to questions; tested on validation",
    ),
    _task(
        "rte",
        glue.rte,
        Columns(text="sentence1", pair="sentence2"),
        layout="RTE/ with train.tsv and dev.tsv",
        origin="Dagan et al. 2006 to Bentivogli et al. 2009, textual entailment; tested on validation",
    ),
    _task(
        "qqp",
        glue.qqp,
        Columns(text="question1", pair="question2", blank=True),
        scores=("accuracy", "f1"),
        layout="QQP/ with train.tsv and dev.tsv",
        origin="Iyer et al. 2017, Quora question pairs; tested on validation",
    ),
    _task(
        "mnli",
        glue.mnli,
        Columns(text="premise", pair="hypothesis"),
        classes=3,
        test="validation_matched",
        layout="MNLI/ with train.tsv and dev_matched.tsv",
        origin="Williams et al. 2018, natural language inference over genres; tested on matched validation",
    ),
    _task(
        "stsb",
        glue.stsb,
        Columns(text="sentence1", pair="sentence2"),
        classes=1,
        scores=("pearson", "spearman"),
        layout="STS-B/ with train.tsv and dev.tsv",
        origin="Cer et al. 2017, semantic textual similarity, a number from 0 to 5; tested on validation",
    ),
)

"""What `fedbraid deploy check` tells: at a site what a server may ask of it, at the server what sites would refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedbraid.deployment import faults, federation
from fedbraid.deployment.notes import read_note
from fedbraid.deployment.site import FILE, SiteTerms, read_site


def checked(folder: Path) -> dict[str, Any]:
    """`headings`, `rows` and `notes` of a table; `UserError` where the folder is that of no site and no federation."""
    return _of_site(folder) if (folder / FILE).is_file() else _of_federation(folder)


def _of_site(folder: Path) -> dict[str, Any]:
    """The site's own word, in words, and what it has refused last."""
    site = read_site(folder)
    rows = [[what, yes, no] for what, yes, no in _terms(site.terms)]
    refused = [
        f"refused {one['times']} times, last {one['at']}: {one['sentence']}" for one in faults.read(folder).values()
    ]
    return {"headings": ["what", "a server may", "and not"], "rows": rows, "notes": refused}


def _terms(terms: SiteTerms) -> list[tuple[str, str, str]]:
    backbones = ", ".join(sorted(terms.backbones)) or "none"
    epsilon = "any run, also without noise" if terms.epsilon is None else f"epsilon {terms.epsilon:g} in all"
    if "private" in terms.modes and terms.epsilon is None:
        epsilon = "runs with noise"
    grams = "any" if terms.small_grams == "allow" else "on as many samples as they are wide, diagonals on 20"
    return [
        ("method", ", ".join(terms.methods) or "none", "any other"),
        ("model", backbones, "a path, or any other name"),
        ("data", "classes, scores, augmentation", "where they are, columns, test share"),
        ("training messages", f"on {terms.least_samples} samples or more", "on fewer"),
        ("Grams in the clear", grams, "" if terms.small_grams == "allow" else "on fewer"),
        (
            "sums",
            "under masks alone" if "masked" in terms.modes else "in the clear or masked",
            "two cohorts of one sum",
        ),
        ("privacy", epsilon, "delta at or above 1 / samples"),
        (
            "test samples",
            "counts of right answers" if terms.evaluate == "allow" else "nothing",
            "answers, texts, images",
        ),
        ("machine", f"{terms.run.threads or 'all'} threads", f"another device than {terms.run.device}"),
        ("code", "as file.py:Name" if terms.code == "allow" else "none", "what travels"),
        ("errors", "a code and a number", "sentences, values, names, paths"),
    ]


def _of_federation(folder: Path) -> dict[str, Any]:
    """What every site said that it would refuse when a run was last about to begin."""
    made = federation.read(folder)
    told = read_note(made.checked).get("refused")
    if told is None:
        note = "no run was about to begin yet: 'fedbraid deploy up' asks all sites before the first round"
        return {
            "headings": ["site", "would refuse"],
            "rows": [[name, "not asked"] for name in made.terms.sites],
            "notes": [note],
        }
    rows = [[name, line] for name in made.terms.sites for line in told.get(name, ["nothing"])]
    return {"headings": ["site", "would refuse"], "rows": rows, "notes": []}

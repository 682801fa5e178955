"""Writes the tables of claims in docs/results.md, from the files in results/studies.

A table stands between a line `<!-- claims: WHOSE -->` and the next `<!-- end -->`. `python
scripts/claims.py` writes them anew.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from dm2.studies.records import Records
from dm2.studies.registry import STUDIES, find_study
from dm2.studies.scales import scale_named
from dm2.studies.study import Claim
from dm2.studies.verdicts import NO_RUNS, Verdict, results_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
ORDER = ("does not hold", "not decided", "holds")
"""What fails to reproduce is said first."""
STATISTICS = {"area": "", "final": "final", "steps_to_80": "steps to 80 %", "kept": "by a stranger"}


def tables(page: str) -> str:
    """The page with its tables as the results are now."""
    for whose in ("the paper's", "ours"):
        begin = f"<!-- claims: {whose} -->\n"
        pattern = re.compile(re.escape(begin) + ".*?(?=<!-- end -->)", re.DOTALL)
        text = begin + "\n" + table(whose == "ours") + "\n"
        page, found = pattern.subn(lambda _, text=text: text, page)
        assert found == 1, f"{begin!r} is in the page {found} times"
    return page


def table(ours: bool) -> str:
    """A row a claim: those of the library, or those of the paper."""
    lines = ["| claim | figure | SMAX, fewer steps | the paper's tasks |", "|---|---|---|---|"]
    rows = [(order, row) for order, row, own in _rows() if own == ours]
    lines += [row for _, row in sorted(rows, key=lambda row: row[0])]
    return "\n".join(lines) + "\n"


def _rows() -> Iterator[tuple[int, str, bool]]:
    """By its place in the order, each claim's row, and whether it is the library's own."""
    found = list(_verdicts())
    for (study, text), group in groupby(found, key=lambda one: (one[0], one[2].claim.text)):
        each = [(scale, verdict) for _, scale, verdict in group]
        claim = each[0][1].claim
        known = [scale for scale, verdict in each if verdict.undecided != NO_RUNS]
        # Where the paper's own tasks were run, they decide where the claim stands.
        decisive = "paper" if "paper" in known else "quick"
        outcomes = {ORDER.index(v.outcome) for s, v in each if s == decisive}
        cells = [
            "<br>".join(_cell(v) for s, v in each if s == scale and v.undecided != NO_RUNS)
            for scale in ("quick", "paper")
        ]
        ours = claim.source == "ours"
        source = f"`{study}`" if ours else f"{claim.source.removeprefix('Figure ')}, `{study}`"
        yield min(outcomes), f"| {text} {_compared(claim)} | {source} | {' | '.join(cells)} |", ours


def _verdicts() -> Iterator[tuple[str, str, Verdict]]:
    """The study's name, the scale, and the verdict, a claim's together."""
    for name in STUDIES:
        results = []
        for scale in ("quick", "paper"):
            if (name, scale) == ("fig4", "quick"):  # of the same tasks as fig2
                continue
            path = ROOT / "results" / "studies" / f"{name}_{scale}.json"
            if path.exists():
                study = find_study(name, scale_named(scale))
                results.append((scale, results_of(study, Records.read(path))))
        verdicts = [(name, scale, v) for scale, result in results for v in result.verdicts]
        texts = list(dict.fromkeys(verdict.claim.text for _, _, verdict in verdicts))
        yield from sorted(verdicts, key=lambda one: texts.index(one[2].claim.text))


def _compared(claim: Claim) -> str:
    """The curves, and by what, in brackets."""
    by = STATISTICS[claim.by]
    return f"({claim.pair}{', ' + by if by else ''})"


def _cell(verdict: Verdict) -> str:
    env = re.sub(r"^smax/|^smac/(?!3m)|\?reward=signed$|(?<=\?)reward=signed&", "", verdict.env)
    value, _, span = verdict.value_text(2).partition("\n")
    span = f" [{span.replace(' to ', ', ')}]" if span else ""
    outcome = f"**{verdict.outcome}**" if verdict.outcome == "holds" else verdict.outcome
    seeds = "" if verdict.seeds == (3, 3) else f" ({verdict.seeds_text} seeds)"
    note = f", {verdict.undecided}" if verdict.undecided else ""
    text = f"{env}: {value}{span}{seeds}: {outcome}{note}"
    return text.replace("+", "").replace("-", "−")


if __name__ == "__main__":
    PAGE.write_text(tables(PAGE.read_text()))

"""The figures of the paper (Wang et al. 2023, arXiv 2206.00233), each with what it is said to show.

The tasks are those of the scale. A claim's text says what the paper says; `Claim.source` where.
"""

from dm2.run.styles import STYLES, Style
from dm2.studies.products import Recording
from dm2.studies.scales import Scale, Task
from dm2.studies.study import DEMONSTRATORS, Claim, Curve, Study

__all__ = ["fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8"]

HIGH = 0.8
"""The share of the battles it samples that a team of good experts wins, at least."""
LOW = 0.4
"""That of weaker experts."""

IPPO, DM2, WEAKER = "IPPO", "DM²", "DM², weaker experts"


def good(task: Task, **options: object) -> Recording:
    """Demonstrations of a task's experts at the end of their training."""
    return Recording((task.expert(),), **options)  # type: ignore[arg-type]


def fair(task: Task) -> Recording:
    """Demonstrations of a task's experts as they were when they won `LOW` of their battles."""
    return Recording((task.expert(),), quality=LOW)


def fig2(scale: Scale) -> Study:
    """All methods on the main tasks."""
    curves = []
    for task in scale.main:
        tuned = task.settings("dm2", imitation={"unit": "reward", "coefficient": task.coefficient})
        of_qmix = Recording((task.expert("qmix"),), epsilon="auto")
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", good(task))),
            Curve(WEAKER, task.runs("dm2", fair(task))),
            Curve("DM², QMIX experts", task.runs("dm2", of_qmix)),
            Curve("DM², coefficient by task", task.runs(tuned, good(task))),
            Curve("SIL", task.runs("sil")),
            Curve("QMIX", task.runs("qmix")),
            Curve("RMAPPO", task.runs("rmappo")),
        ]
    source = "Figure 2"
    return Study(
        "fig2",
        "DM² beside its baselines",
        "Does distribution matching make independent learners faster, whoever the experts are, and"
        " how far are centralised methods ahead?",
        tuple(curves),
        (
            Claim("DM² learns faster than IPPO.", DM2, IPPO, source=source),
            Claim("DM² needs fewer steps than IPPO.", DM2, IPPO, "steps_to_80", source=source),
            Claim(
                "DM² learns faster than IPPO from weaker experts too.",
                WEAKER,
                IPPO,
                source=source,
            ),
            Claim(
                "DM² learns faster than IPPO from experts of QMIX too.",
                "DM², QMIX experts",
                IPPO,
                source=source,
            ),
            Claim(
                "The quality of the experts hardly matters.",
                DM2,
                WEAKER,
                kind="alike",
                margin=0.1,
                source=source,
            ),
            Claim("DM² surpasses its demonstrators.", DM2, DEMONSTRATORS, "final", source=source),
            Claim(
                "DM² surpasses weaker demonstrators.",
                WEAKER,
                DEMONSTRATORS,
                "final",
                source=source,
            ),
            Claim("SIL learns more slowly than DM².", DM2, "SIL", source=source),
            Claim("QMIX learns faster than IPPO.", "QMIX", IPPO, source=source),
            Claim("RMAPPO learns faster than IPPO.", "RMAPPO", IPPO, source=source),
            Claim("QMIX learns faster than DM².", "QMIX", DM2, source=source),
            Claim("RMAPPO learns faster than DM².", "RMAPPO", DM2, source=source),
            Claim(
                "In the end DM² is level with QMIX.",
                DM2,
                "QMIX",
                "final",
                "alike",
                margin=0.1,
                source=source,
            ),
            Claim(
                "One coefficient for all tasks does as well as one for each.",
                DM2,
                "DM², coefficient by task",
                kind="no worse",
                margin=0.1,
                source="ours",
            ),
            Claim(
                "With a coefficient for each task DM² learns faster than IPPO.",
                "DM², coefficient by task",
                IPPO,
                source="ours",
            ),
            Claim("SIL learns faster than IPPO.", "SIL", IPPO, source="ours"),
        ),
    )


def fig3(scale: Scale) -> Study:
    """Who the experts trained with, and when they acted together."""
    task = scale.one
    size = 5 if "5m" in task.env else 3
    names: dict[Style, str] = {
        "co-trained-concurrent": "co-trained, concurrent",
        "co-trained-disjoint": "co-trained, not concurrent",
        "mixed-concurrent": "not co-trained, concurrent",
        "mixed-disjoint": "not co-trained, not concurrent",
        "mixed-same-indices": "not co-trained, same indices",
    }
    assert names.keys() == STYLES.keys()
    curves = [Curve(IPPO, task.runs("ippo"))]
    claims: list[Claim] = []
    for quality, which in ((HIGH, "good"), (LOW, "weaker")):
        for style, name in names.items():
            if which == "weaker" and style == "mixed-same-indices":
                continue  # the reading of the authors' code, at one quality
            teams = range(size if style.startswith("mixed") else 1)
            runs = tuple(task.expert(number=number) for number in teams)
            demos = Recording(runs, quality=quality, style=style)
            curves.append(Curve(f"{name} ({which})", task.runs("dm2", demos)))
        together, apart, mixed, strangers = (
            f"{name} ({which})" for name in list(names.values())[:4]
        )
        claims += [
            Claim(
                f"Experts that act together need to be co-trained ({which} ones).",
                together,
                mixed,
                source="Figure 3",
            ),
            Claim(
                f"Experts that do not act together need to be co-trained ({which} ones).",
                apart,
                strangers,
                source="Figure 3",
            ),
            Claim(
                f"Experts that were co-trained need not act at the same time ({which} ones).",
                apart,
                together,
                kind="no worse",
                margin=0.1,
                source="Figure 3",
            ),
            Claim(
                f"Experts that were not co-trained are better than none ({which} ones).",
                mixed,
                IPPO,
                source="ours",
            ),
        ]
    return Study(
        "fig3",
        "Demonstrations: co-trained or not, concurrent or not",
        "Does DM² need experts that were trained together, or ones that act together?",
        tuple(curves),
        tuple(claims),
    )


def fig4(scale: Scale) -> Study:
    """Two more tasks."""
    curves = []
    for task in scale.more:
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", good(task))),
            Curve(WEAKER, task.runs("dm2", fair(task))),
            Curve("QMIX", task.runs("qmix")),
            Curve("RMAPPO", task.runs("rmappo")),
        ]
    source = "Figure 4"
    return Study(
        "fig4",
        "Two more tasks",
        "Does what Figure 2 shows hold on the tasks of the appendix?",
        tuple(curves),
        (
            Claim("DM² learns faster than IPPO.", DM2, IPPO, source=source),
            Claim(
                "DM² learns faster than IPPO from weaker experts too.",
                WEAKER,
                IPPO,
                source=source,
            ),
        ),
    )


def fig5(scale: Scale) -> Study:
    """Behavioural cloning before learning."""
    curves = []
    for task in scale.hard:
        demos = Recording((task.expert(),), quality=LOW, actions=True)
        mixed = task.settings("bc", cloning={"then": "mixed"})
        alone = task.settings("bc", cloning={"then": "task"})
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", demos)),
            Curve("cloning, then DM²", task.runs(mixed, demos)),
            Curve("cloning, then IPPO", task.runs(alone, demos)),
        ]
    source = "Figure 5"
    return Study(
        "fig5",
        "Cloning before learning",
        "Does cloning of the same demonstrations, with their actions, take the place of matching"
        " their distribution, or add to it?",
        tuple(curves),
        (
            Claim(
                "The benefit of cloning is gone in the end.",
                "cloning, then DM²",
                DM2,
                "final",
                "alike",
                source=source,
            ),
            Claim(
                "Cloning does not make up for the missing imitation reward.",
                DM2,
                "cloning, then IPPO",
                source="ours",
            ),
            Claim("DM² learns faster with cloning first.", "cloning, then DM²", DM2, source="ours"),
        ),
    )


def fig6(scale: Scale) -> Study:
    """The imitation reward alone."""
    curves = []
    for task in scale.hard:
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", good(task))),
            Curve(WEAKER, task.runs("dm2", fair(task))),
            Curve("GAIL", task.runs("gail", good(task))),
            Curve("GAIL, weaker experts", task.runs("gail", fair(task))),
        ]

    def far_below(text: str, other: str, label: str) -> Claim:
        return Claim(text, other, label, "final", "far ahead", margin=0.2, source="Figure 6")

    weaker = "GAIL, weaker experts"
    return Study(
        "fig6",
        "Imitation alone",
        "Can agents that match their experts do without the task's reward?",
        tuple(curves),
        (
            far_below("GAIL is far below IPPO.", IPPO, "GAIL"),
            far_below("GAIL is far below DM².", DM2, "GAIL"),
            far_below("GAIL from weaker experts is far below IPPO.", IPPO, weaker),
            far_below(
                "GAIL is far below DM², both from weaker experts.",
                WEAKER,
                weaker,
            ),
        ),
    )


def fig7(scale: Scale) -> Study:
    """Experts of ten qualities."""
    curves = []
    for task in scale.hard:
        curves.append(Curve(IPPO, task.runs("ippo")))
        for number, step in enumerate(task.levels(), start=1):
            runs = task.runs("dm2", Recording((task.expert(),), at=step))
            curves.append(Curve(f"level {number}", runs, level=float(number)))
    source = "Figure 7"
    return Study(
        "fig7",
        "The quality of the experts",
        "How good must experts be? Ten checkpoints of one training run, evenly spread, level 10 the"
        " last.",
        tuple(curves),
        (
            Claim("Better experts are better.", "level 10", "level 2", source=source),
            Claim(
                "The experts' quality saturates: half of their training is as good as all of it.",
                "level 5",
                "level 10",
                kind="no worse",
                margin=0.1,
                source=source,
            ),
            Claim(
                "Poor experts are no worse than none.",
                "level 1",
                IPPO,
                kind="no worse",
                source="ours",
            ),
        ),
        axis="experts' training (tenths)",
    )


def fig8(scale: Scale) -> Study:
    """QMIX with one or two dense layers before its recurrent one."""
    curves = []
    for task in (scale.one,):
        for layers, name in ((1, "one dense layer"), (2, "two dense layers")):
            settings = task.settings("qmix", q={"dense_layers": layers})
            curves.append(Curve(f"QMIX, {name}", task.runs(settings)))
    return Study(
        "fig8",
        "QMIX's network",
        "Does a second dense layer hurt QMIX?",
        tuple(curves),
        (
            Claim(
                "A second dense layer hurts.",
                "QMIX, one dense layer",
                "QMIX, two dense layers",
                source="Figure 8",
            ),
        ),
    )

"""Studies of what the paper left open, and of this library's own choices."""

from typing import get_args

from dm2.agent.settings import Survival
from dm2.methods import METHODS
from dm2.studies.products import Exchange, Recording
from dm2.studies.registry.paper import DM2, IPPO, WEAKER, fair, good
from dm2.studies.scales import Scale
from dm2.studies.study import Claim, Curve, Study

__all__ = [
    "amount",
    "coefficient",
    "falling",
    "gradient_norm",
    "magail",
    "methods",
    "other_reward",
    "reward_form",
    "starts",
    "strangers",
]


def magail(scale: Scale) -> Study:
    """What a discriminator of one's own costs."""
    curves = []
    for task in scale.main[:2]:
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", good(task))),
            Curve("MAGAIL", task.runs("magail", good(task))),
        ]
    return Study(
        "magail",
        "The price of decentralising the discriminator",
        "DM² and its centralised counterpart, with one discriminator on the joint observation, from"
        " the same demonstrations: what does it cost that every agent has its own?",
        tuple(curves),
        (
            Claim(
                "A discriminator of one's own costs nothing that matters.",
                DM2,
                "MAGAIL",
                kind="no worse",
                source="ours",
            ),
            Claim("A joint discriminator learns faster.", "MAGAIL", DM2, source="ours"),
        ),
    )


def amount(scale: Scale) -> Study:
    """How many demonstrations are needed."""
    curves, counts = [], (1, 10, 100, 1000) if scale.name == "quick" else (1, 3, 10, 30, 100, 1000)
    task = scale.hard[0]
    curves.append(Curve(IPPO, task.runs("ippo")))
    for count in counts:
        demos = good(task) if count == 1000 else good(task, first=count)
        name = f"{count} episode" + ("s" if count > 1 else "")
        curves.append(Curve(name, task.runs("dm2", demos), level=float(count)))
    return Study(
        "amount",
        "The number of demonstrations",
        "How many joint episodes does DM² need?",
        tuple(curves),
        (
            Claim(
                "100 episodes do as well as 1000.",
                "100 episodes",
                "1000 episodes",
                kind="no worse",
                margin=0.1,
                source="ours",
            ),
            Claim("10 episodes are better than none.", "10 episodes", IPPO, source="ours"),
            Claim("One episode is better than none.", "1 episode", IPPO, source="ours"),
        ),
        axis="demonstration episodes",
    )


def other_reward(scale: Scale) -> Study:
    """Experts that were trained on another reward."""
    task = scale.hard[0]
    base = task.env.partition("?")[0]
    curves = [
        Curve(IPPO, task.runs("ippo")),
        Curve("experts of the task's reward", task.runs("dm2", good(task))),
    ]
    for reward, name in (("damage", "experts of damage"), ("safety", "experts of safety")):
        demos = Recording((task.expert(env=f"{base}?reward={reward}"),))
        curves.append(Curve(name, task.runs("dm2", demos)))
    return Study(
        "other-reward",
        "Experts of another reward",
        "The authors' open question: do demonstrations help of experts that were trained on another"
        " reward than the team's? Ones that were paid for damage, but not for winning, and ones"
        " that were paid for their own health alone.",
        tuple(curves),
        (
            Claim(
                "Experts of damage are better than none.",
                "experts of damage",
                IPPO,
                source="ours",
            ),
            Claim(
                "Experts of damage do as well as those of the task's reward.",
                "experts of damage",
                "experts of the task's reward",
                kind="no worse",
                margin=0.1,
                source="ours",
            ),
            Claim(
                "Experts of safety are better than none.",
                "experts of safety",
                IPPO,
                source="ours",
            ),
        ),
    )


def starts(scale: Scale) -> Study:
    """Whether DM² wins where no battle starts as another did."""
    task = scale.varied
    return Study(
        "starts",
        "Battles that start anew",
        "By SMAC's rules all battles of a task start alike, so that demonstrations show little more"
        " than one. Does imitation help where each battle starts from other places?",
        (
            Curve(IPPO, task.runs("ippo")),
            Curve(DM2, task.runs("dm2", good(task))),
            Curve(WEAKER, task.runs("dm2", fair(task))),
        ),
        (
            Claim("From varied starts DM² learns faster than IPPO.", DM2, IPPO, source="ours"),
            Claim(
                "From varied starts DM² learns faster than IPPO from weaker experts too.",
                WEAKER,
                IPPO,
                source="ours",
            ),
            Claim(
                "From varied starts DM² is no worse than IPPO in the end.",
                DM2,
                IPPO,
                "final",
                "no worse",
                source="ours",
            ),
        ),
    )


def falling(scale: Scale) -> Study:
    """A coefficient that falls to nothing."""
    task = scale.hard[0]
    stops = {"coefficient_end": 0.0, "coefficient_share": 0.5}
    settings = task.settings("dm2", imitation=stops)
    curves = (
        Curve(IPPO, task.runs("ippo")),
        Curve(DM2, task.runs("dm2", good(task))),
        Curve("DM², falling", task.runs(settings, good(task))),
        Curve(WEAKER, task.runs("dm2", fair(task))),
        Curve("DM², falling, weaker experts", task.runs(settings, fair(task))),
    )
    return Study(
        "falling",
        "A coefficient that falls",
        "A reward for imitation leads beginners and may hold back who is as good as the expert: is"
        " it better to let the coefficient fall to nothing over the first half of training?",
        curves,
        (
            Claim("A coefficient that falls is better.", "DM², falling", DM2, source="ours"),
            Claim(
                "A coefficient that falls is better in the end.",
                "DM², falling",
                DM2,
                "final",
                source="ours",
            ),
            Claim("Falling, DM² learns faster than IPPO.", "DM², falling", IPPO, source="ours"),
            Claim(
                "Falling, DM² learns faster than IPPO from weaker experts too.",
                "DM², falling, weaker experts",
                IPPO,
                source="ours",
            ),
        ),
    )


def gradient_norm(scale: Scale) -> Study:
    """PPO's gradients, clipped where they hardly ever are and where they often are."""
    curves, clipped = [], {"max_grad_norm": 0.5}
    for task in scale.main:
        demos = good(task)
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve("IPPO, 0.5", task.runs(task.settings("ippo", ppo=clipped))),
            Curve(DM2, task.runs("dm2", demos)),
            Curve("DM², 0.5", task.runs(task.settings("dm2", ppo=clipped), demos)),
        ]
    return Study(
        "gradient-norm",
        "The gradient's largest norm",
        "A norm of 10 at most, as in MAPPO's code, hardly ever clips an actor's gradient, and one"
        " large one can undo a team: what does a norm of 0.5 at most cost?",
        tuple(curves),
        (
            Claim(
                "Clipped at 0.5, IPPO learns as fast.",
                "IPPO, 0.5",
                IPPO,
                kind="no worse",
                margin=0.1,
                source="ours",
            ),
            Claim(
                "Clipped at 0.5, DM² learns as fast.",
                "DM², 0.5",
                DM2,
                kind="no worse",
                margin=0.1,
                source="ours",
            ),
            Claim(
                "Clipped at 0.5, DM² learns faster than IPPO.",
                "DM², 0.5",
                "IPPO, 0.5",
                source="ours",
            ),
        ),
    )


def strangers(scale: Scale) -> Study:
    """Agents of different runs put together."""
    curves, exchanges = [], []
    for task in scale.main[:2]:
        for label, runs in (
            (IPPO, task.runs("ippo", seeds=max(2, scale.seeds))),
            (DM2, task.runs("dm2", good(task), seeds=max(2, scale.seeds))),
        ):
            curves.append(Curve(label, runs))
            exchanges.append((label, Exchange(runs)))
    return Study(
        "strangers",
        "Agents of different runs put together",
        "One agent of each team is replaced by its counterpart from a team of another seed. Are"
        " agents that match the same expert interchangeable?",
        tuple(curves),
        (
            Claim(
                "DM²'s teams lose less by a stranger than IPPO's.",
                DM2,
                IPPO,
                "kept",
                source="ours",
            ),
            Claim(
                "DM² is no worse than IPPO in the end.",
                DM2,
                IPPO,
                "final",
                "no worse",
                source="ours",
            ),
        ),
        tuple(exchanges),
    )


def methods(scale: Scale) -> Study:
    """Every method that there is, on one task."""
    task = scale.easy
    demos = good(task, actions=True)
    curves = [
        Curve(label, task.runs(name, demos if METHODS[name].imitates else None))
        for name, label in (
            ("ippo", IPPO),
            ("dm2", DM2),
            ("gail", "GAIL"),
            ("sil", "SIL"),
            ("bc", "cloning"),
            ("magail", "MAGAIL"),
            ("rmappo", "RMAPPO"),
            ("qmix", "QMIX"),
            ("vdn", "VDN"),
            ("iql", "IQL"),
        )
    ]
    return Study(
        "methods",
        "Every method on one task",
        "What does every method do with its default settings, and from the same demonstrations?",
        tuple(curves),
        (
            Claim("Mixing helps: QMIX is ahead of VDN.", "QMIX", "VDN", source="ours"),
            Claim("Sharing the value helps: VDN is ahead of IQL.", "VDN", "IQL", source="ours"),
        ),
    )


def coefficient(scale: Scale) -> Study:
    """One coefficient for tasks of unlike rewards, in either unit."""
    curves = []
    for task in scale.unlike:
        demos = good(task)
        fixed = task.settings("dm2", imitation={"unit": "reward", "coefficient": 0.05})
        curves += [
            Curve(IPPO, task.runs("ippo")),
            Curve("DM², 0.05 of reward", task.runs(fixed, demos)),
            Curve("DM², 0.5 of advantages", task.runs("dm2", demos)),
        ]
    untuned, fixed = "DM², 0.5 of advantages", "DM², 0.05 of reward"
    return Study(
        "coefficient",
        "One coefficient for all tasks",
        "Tasks pay 2, 20 or −20 an episode. Does one coefficient do for all of them, in units of"
        " reward, or of advantages?",
        tuple(curves),
        (
            Claim("In units of advantages DM² beats IPPO.", untuned, IPPO, source="ours"),
            Claim("In units of reward DM² beats IPPO.", fixed, IPPO, source="ours"),
            Claim(
                "In units of advantages the coefficient is better.", untuned, fixed, source="ours"
            ),
        ),
    )


def reward_form(scale: Scale) -> Study:
    """The imitation reward's form, and what it does about death."""
    curves = []
    task = scale.hard[0]
    demos, forms, survivals = good(task), ("softplus", "logit", "log"), get_args(Survival)
    curves.append(Curve(IPPO, task.runs("ippo")))
    for form in forms:
        for survival in survivals:
            settings = task.settings("dm2", imitation={"reward": form, "survival": survival})
            curves.append(Curve(f"{form}, {survival}", task.runs(settings, demos)))
    return Study(
        "reward-form",
        "The form of the imitation reward",
        "An imitation reward that keeps its sign teaches how long to live. Which form, and which"
        " treatment of death and end, helps?",
        tuple(curves),
        (
            *(
                Claim(
                    f"Centring the imitation reward helps ({form}).",
                    f"{form}, centred",
                    f"{form}, none",
                    source="ours",
                )
                for form in forms
            ),
            Claim("The centred softplus beats IPPO.", "softplus, centred", IPPO, source="ours"),
            Claim("The authors' uncentred logit beats IPPO.", "logit, none", IPPO, source="ours"),
        ),
    )

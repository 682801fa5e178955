"""The demonstration file: every method on tiny data worked out by hand, and every bad input."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from conftest import refuses
from dm2.demos import AgentDemonstrations, Demonstrations, describe
from dm2.demos import file as file_module
from dm2.envs.base import EnvSpec
from dm2.errors import InputError

PROVENANCE = {
    "environment": "smax/2m?walls=safe",
    "environment_version": "jaxmarl 0.2.0",
    "num_actions": 3,
    "episode_limit": 4,
    "method": "ippo",
    "seed": 7,
    "training_step": 1000,
    "policy": "stochastic",
}

# Two agents, two episodes of 2 and 1 steps in arrays of T = 3, two features, three actions.
# Feature 1 never changes for a live agent 0; 99 marks padding, 50 agent 1 after its death.
OBSERVATIONS = np.array(
    [
        [[[0.5, 1], [2, 3]], [[-1, 1], [50, 50]], [[99, 99], [99, 99]]],
        [[[0.25, 1], [4, -5]], [[99, 99], [99, 99]], [[99, 99], [99, 99]]],
    ],
    np.float32,
)
ALIVE = np.array([[[1, 1], [1, 0], [1, 1]], [[1, 1], [1, 1], [1, 1]]], bool)
LENGTH = np.array([2, 1], np.int32)
ACTIONS = np.array([[[0, 1], [2, 77], [9, 9]], [[1, 2], [9, 9], [9, 9]]], np.int32)
LEGAL = np.ones((2, 3, 2, 3), bool)
LEGAL[0, 0, 0] = [True, False, True]
RETURNS = np.array([2.0, -0.5], np.float32)
WON = np.array([True, False])


def episodes(**changes) -> Demonstrations:
    given = {"actions": ACTIONS, "legal": LEGAL, "returns": RETURNS, "won": WON}
    given |= {
        "observations": OBSERVATIONS,
        "alive": ALIVE,
        "length": LENGTH,
        "provenance": PROVENANCE,
    }
    return Demonstrations.from_episodes(**(given | changes))


def agent(**changes) -> AgentDemonstrations:
    """One agent by hand: two episodes, of 2 and 1 steps."""
    given = {
        "observations": np.array([[1, 2], [3, 4], [5, 6]], np.float16),
        "alive": np.array([True, True, True]),
        "offsets": np.array([0, 2, 3], np.int64),
    }
    return AgentDemonstrations(**(given | changes))


def assert_same(a: Demonstrations, b: Demonstrations) -> None:
    assert a.provenance == b.provenance
    assert len(a) == len(b)
    for mine, theirs in zip(a.agents, b.agents, strict=True):
        assert mine.arrays().keys() == theirs.arrays().keys()
        for name, array in mine.arrays().items():
            other = theirs.arrays()[name]
            assert (array.dtype, array.shape) == (other.dtype, other.shape)
            assert array.tobytes() == other.tobytes(), name  # bits, so that -0.0 is not 0.0


# --- building ---------------------------------------------------------------------------------


def test_from_episodes_trims_padding_and_splits_agents():
    demos = episodes()
    assert len(demos) == 2
    np.testing.assert_array_equal(demos[0].observations, [[0.5, 1], [-1, 1], [0.25, 1]])
    np.testing.assert_array_equal(demos[1].observations, [[2, 3], [50, 50], [4, -5]])
    assert demos[0].observations.dtype == np.float16
    np.testing.assert_array_equal(demos[1].alive, [True, False, True])
    for k in range(2):
        np.testing.assert_array_equal(demos[k].offsets, [0, 2, 3])
        np.testing.assert_array_equal(demos[k].returns, [2.0, -0.5])
        np.testing.assert_array_equal(demos[k].won, [True, False])
    np.testing.assert_array_equal(demos[0].actions, [0, 2, 1])
    np.testing.assert_array_equal(demos[1].actions, [1, 77, 2])  # dead: kept, not judged
    np.testing.assert_array_equal(demos[0].legal, [[1, 0, 1], [1, 1, 1], [1, 1, 1]])


def test_provenance_is_copied_and_completed():
    given = dict(PROVENANCE)
    demos = episodes(provenance=given)
    given["seed"] = 8
    assert demos.provenance["seed"] == 7
    assert demos.provenance["concurrency"] == [0, 0]
    assert demos.provenance["episodes"] == 2
    assert demos.provenance["win_rate"] == 0.5
    assert demos.provenance["rounding_error"] == 0.0
    assert episodes(provenance=given | {"win_rate": 0.9}).provenance["win_rate"] == 0.9
    bare = {n: v for n, v in PROVENANCE.items() if n not in ("method", "seed", "policy")}
    bare = episodes(provenance=bare, won=None).provenance
    assert [bare[n] for n in ("method", "seed", "policy", "win_rate")] == [None] * 4


def test_rounding_is_reported_and_float32_avoids_it():
    observations = OBSERVATIONS.copy()
    # Between 1 and 2 float16 has steps of 2^-10: the nearest to 1 + 2^-12 is 1.
    observations[0, 0, 0, 1] = 1 + 2**-12
    demos = episodes(observations=observations)
    assert demos[0].observations[0, 1] == 1
    assert demos.provenance["rounding_error"] == 2**-12
    exact = episodes(observations=observations, dtype="float32")
    assert exact[0].observations.dtype == np.float32
    assert exact[0].observations[0, 1] == np.float32(1 + 2**-12)
    assert exact.provenance["rounding_error"] == 0.0


def test_the_environment_decides_the_type_where_nobody_does():
    """Battles' features lie in about -1 to 1; elsewhere float16 may end below one, or round it."""
    for name, kind in (("smac/2m", "float16"), ("mpe2/x", "float32"), ("smaxed:x", "float32")):
        made = episodes(provenance=PROVENANCE | {"environment": name})
        assert made.summary()["dtype"] == kind
        made = episodes(provenance=PROVENANCE | {"environment": name}, dtype="float16")
        assert made.summary()["dtype"] == "float16"
    large = episodes(observations=OBSERVATIONS + 1e5, provenance=PROVENANCE | {"environment": "x"})
    assert large[0].observations[0].tolist() == [1e5 + 0.5, 1e5 + 1]
    assert large.provenance["rounding_error"] == 0


def test_overflow_of_float16_is_refused_but_not_in_the_padding():
    observations = OBSERVATIONS.copy()
    observations[1, 0, 1, 0] = 1e5  # float16 ends at 65504
    refuses(
        lambda: episodes(observations=observations),
        "agent 1",
        "100000",
        "float16",
        "use dtype float32",
    )
    assert episodes(observations=observations, dtype="float32")[1].observations[2, 0] == 1e5
    observations = OBSERVATIONS.copy()
    observations[1, 2] = np.nan
    assert_same(episodes(observations=observations), episodes())


def test_non_finite_observations_name_agent_and_step():
    for value, shown in ((np.nan, "nan"), (np.inf, "inf")):
        observations = OBSERVATIONS.copy()
        observations[0, 1, 1, 0] = value
        refuses(
            lambda observations=observations: episodes(observations=observations),
            "agent 1",
            f"observations[1, 0] = {shown}",
            "episode 0, step 1",
            "dm2 record",
        )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"length": np.array([2, 0])}, ["length[1] = 0", "from 1 to 3"]),
        ({"length": np.array([4, 1])}, ["length[0] = 4", "from 1 to 3"]),
        ({"length": np.array([2, 1, 1])}, ["length has shape (3,)", "[E]", "'E': 2"]),
        ({"length": np.array([2.0, 1.0])}, ["length is float64", "integers"]),
        ({"alive": ALIVE[:, :2]}, ["alive has shape (2, 2, 2)", "[E T K]", "'T': 3"]),
        ({"legal": LEGAL[0]}, ["legal has shape (3, 2, 3)", "[E T K A]"]),
        ({"won": WON[:1]}, ["won has shape (1,)"]),
        ({"actions": ACTIONS.astype(float)}, ["actions is float64"]),
        ({"alive": ALIVE.astype(np.uint8)}, ["agent 0", "alive is uint8", "array of bool"]),
        ({"dtype": "float64"}, ["dtype = 'float64'", "use float16 or float32"]),
        (
            {"observations": OBSERVATIONS[:, :, :0], "alive": ALIVE[:, :, :0]},
            ["agents: there are none"],
        ),
    ],
)
def test_from_episodes_refuses_what_does_not_fit(changes, parts):
    if "alive" in changes and changes["alive"].shape[2] == 0:
        changes = changes | {"actions": None, "legal": None}
    refuses(lambda: episodes(**changes), *parts)


def test_zero_episodes_are_refused():
    empty = {name: value[:0] for name, value in (("observations", OBSERVATIONS), ("alive", ALIVE))}
    empty |= {"length": LENGTH[:0], "actions": None, "legal": None, "returns": None, "won": None}
    refuses(lambda: episodes(**empty), "agent 0", "0 episodes", "dm2 record")


def test_a_live_agents_action_must_be_legal():
    assert agent(actions=np.array([0, 1, 2], np.int16)).actions is not None
    legal = np.ones((3, 3), bool)
    legal[2, 1] = False
    for action in (1, -1, 3):
        actions = np.array([0, 0, action], np.int32)
        problem = f"actions[2] = {action} (episode 1, step 0)"
        refuses(lambda a=actions: agent(actions=a, legal=legal), problem, "not a legal action")
        alive = np.array([True, True, False])
        assert agent(actions=actions, legal=legal, alive=alive).num_episodes == 2
    actions = np.array([0, -1, 0], np.int16)
    refuses(lambda: agent(actions=actions), "actions[1] = -1", "not a legal action")


F16 = np.zeros((3, 2), np.float16)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"observations": F16.astype(np.float64)}, ["observations is float64", "float16 or"]),
        ({"observations": F16[:, 0]}, ["observations has shape (3,)", "[steps, O]"]),
        ({"observations": F16[:, :0]}, ["observations have 0 features"]),
        ({"observations": None}, ["observations is NoneType"]),
        ({"alive": [True, True, True]}, ["alive is list"]),
        ({"alive": np.ones(2, bool)}, ["alive has 2 steps, must have 3"]),
        ({"alive": np.zeros(3, bool)}, ["alive is never true"]),
        ({"offsets": np.array([0, 2, 3], np.int32)}, ["offsets is int32", "int64"]),
        ({"offsets": np.array([0])}, ["0 episodes"]),
        ({"offsets": np.array([], np.int64)}, ["0 episodes"]),
        ({"offsets": np.array([1, 2, 3])}, ["offsets[0] = 1, must be 0"]),
        ({"offsets": np.array([0, 2, 2, 3])}, ["offsets[2] = 2 after 2"]),
        ({"offsets": np.array([0, 4, 3])}, ["offsets[2] = 3 after 4"]),
        ({"offsets": np.array([0, 2])}, ["offsets end at 2, but there are 3 steps"]),
        ({"actions": np.zeros(3, np.int64)}, ["actions is int64", "int16 or int32"]),
        ({"actions": np.zeros(2, np.int16)}, ["actions has 2 steps, must have 3"]),
        ({"legal": np.ones((2, 3), bool)}, ["legal has 2 steps, must have 3"]),
        ({"legal": np.eye(3, 4, k=1, dtype=bool)[::-1] & False}, ["legal[0] has no legal"]),
        ({"returns": np.zeros(2)}, ["returns is float64", "float32"]),
        ({"returns": np.zeros(3, np.float32)}, ["returns has 3 episodes, must have 2"]),
        ({"returns": np.array([0, np.nan], np.float32)}, ["returns[1] is not a finite"]),
        ({"won": np.zeros(2, np.uint8)}, ["won is uint8", "bool"]),
        ({"won": np.zeros(3, bool)}, ["won has 3 episodes, must have 2"]),
    ],
)
def test_an_agents_arrays_are_validated(changes, parts):
    refuses(lambda: agent(**changes), *parts)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"environment": ""}, ["provenance.environment = ''", "a name"]),
        ({"environment_version": 1}, ["provenance.environment_version = 1", "a text"]),
        ({"num_actions": 0}, ["provenance.num_actions = 0", "above 0"]),
        ({"num_actions": True}, ["provenance.num_actions = True"]),
        ({"num_actions": 2}, ["agent 0", "legal has 3 actions, but num_actions = 2"]),
        ({"episode_limit": 1.5}, ["provenance.episode_limit = 1.5"]),
        ({"episode_limit": 1}, ["agent 0", "an episode has 2 steps, but episode_limit = 1"]),
        ({"concurrency": "ab"}, ["provenance.concurrency = 'ab'", "a list"]),
        ({"concurrency": [0.5, 1]}, ["provenance.concurrency = [0.5, 1]"]),
        ({"concurrency": [0]}, ["provenance.concurrency = [0]", "each of the 2 agents"]),
        ({"policy": "eager"}, ["provenance.policy = 'eager'", "'stochastic', 'greedy' or"]),
        ({"policy": ["greedy", "eager"]}, ["provenance.policy = ['greedy', 'eager']"]),
        ({"epsilon": 1.5}, ["provenance.epsilon = 1.5", "from 0 to 1"]),
        ({"seed": [1, 2, 3]}, ["provenance.seed = [1, 2, 3]", "each of the 2 agents"]),
        ({"episode_indices": "0-"}, ["provenance.episode_indices = '0-'", "ranges such as"]),
        ({"episode_indices": "0-2"}, ["agent 0", "episode_indices = '0-2'", "as there are, 2"]),
        ({"episode_indices": ["0-1", "0-999999999"]}, ["agent 1", "'0-999999999'"]),
        ({"win_rate": 1.01}, ["provenance.win_rate = 1.01", "from 0 to 1"]),
        ({"seed": np.int64(3)}, ["provenance", "int64", "plain values"]),
        ({"seed": float("nan")}, ["provenance", "plain values"]),
    ],
)
def test_provenance_is_validated(changes, parts):
    refuses(lambda: episodes(provenance=PROVENANCE | changes), *parts)


def test_provenance_must_be_complete():
    for name in ("environment", "environment_version", "num_actions", "episode_limit"):
        rest = {n: v for n, v in PROVENANCE.items() if n != name}
        refuses(lambda rest=rest: episodes(provenance=rest), f"provenance.{name} is missing")
    refuses(lambda: Demonstrations((agent(),), PROVENANCE), "provenance.concurrency is missing")


def test_actions_must_fit_into_32_bits():
    actions = ACTIONS.astype(np.uint64)
    actions[1, 0, 0] += np.uint64(2**32)
    problem = f"episode 1, step 0, agent 0: actions = {actions[1, 0, 0]}: must fit into int32"
    refuses(lambda: episodes(actions=actions, legal=None), problem)


def test_actions_must_be_below_num_actions_while_alive():
    actions = ACTIONS.copy()
    actions[1, 0, 0] = 3
    problem = "agent 0: actions has 3, but num_actions = 3"
    refuses(lambda: episodes(actions=actions, legal=None), problem)


def test_agents_must_agree_in_observation_size():
    wide = agent(observations=np.zeros((3, 5), np.float16))
    provenance = PROVENANCE | {"concurrency": [0, 1]}
    problem = "agent 1: observations have 5 features, agent 0's have 2"
    refuses(lambda: Demonstrations((agent(), wide), provenance), problem)


def test_agents_of_one_label_must_share_their_episodes():
    other = {"offsets": np.array([0, 1, 3]), "won": np.ones(2, bool)}
    for name, value in other.items():
        pair = (agent(), agent(**{name: value}))
        same = PROVENANCE | {"concurrency": ["a", "a"]}
        parts = ("agents 0 and 1 share concurrency 'a', but not " + name, "label")
        refuses(lambda pair=pair, same=same: Demonstrations(pair, same), *parts)
        apart = Demonstrations(pair, PROVENANCE | {"concurrency": ["a", "b"]})
        assert apart.provenance["episodes"] == 4


# --- what agents and checks get from it -------------------------------------------------------


def test_alive_observations_leave_out_the_dead():
    demos = episodes()
    np.testing.assert_array_equal(demos.alive_observations(0), [[0.5, 1], [-1, 1], [0.25, 1]])
    np.testing.assert_array_equal(demos.alive_observations(1), [[2, 3], [4, -5]])
    assert demos.alive_observations(1).dtype == np.float16


def test_absorbing_fraction_counts_death_and_the_time_after_the_end():
    demos = episodes()
    # Limit 4, two episodes: agent 0 lives 2 + 1 of 8 steps, agent 1 lives 1 + 1.
    assert demos.absorbing_fraction(0) == 5 / 8
    assert demos.absorbing_fraction(1) == 6 / 8
    shorter = episodes(provenance=PROVENANCE | {"episode_limit": 2})
    assert shorter.absorbing_fraction(0) == 1 / 4


def spec(**changes) -> EnvSpec:
    values = {"name": "smax/2m?walls=kill", "version": "x", "num_agents": 2}
    values |= {"observation_size": 2, "num_actions": 3, "state_size": 1, "episode_limit": 4}
    return EnvSpec(**(values | changes))


def test_check_accepts_the_recorded_environment(recwarn):
    same = spec(name="smax/2m?walls=safe", version="jaxmarl 0.2.0")
    episodes().check(same)
    episodes().check(same, same_limit=True)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("changes", "have", "want"),
    [
        ({"name": "smax/2m?walls=kill"}, "environment smax/2m?walls=safe", "smax/2m?walls=kill"),
        ({"name": "smax/2m"}, "environment smax/2m?walls=safe", "smax/2m"),
        ({"version": "smax 2"}, "version jaxmarl 0.2.0", "smax 2"),
        ({"episode_limit": 7}, "episode limit 4", "7"),
    ],
)
def test_check_says_what_differs_and_may(changes, have, want):
    same = {"name": "smax/2m?walls=safe", "version": "jaxmarl 0.2.0"}
    said = f"the demonstrations were recorded with {have}, this run has {want}"
    with pytest.warns(UserWarning, match=re.escape(said)) as caught:
        episodes().check(spec(**(same | changes)))
    assert len(caught) == 1


def test_another_limit_is_refused_where_time_up_to_it_counts():
    longer = spec(name="smax/2m?walls=safe", version="jaxmarl 0.2.0", episode_limit=7)
    problem = "episode limit is 4, must be 7"
    refuses(lambda: episodes().check(longer, same_limit=True), problem, "absorbing", "dm2 record")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "smax/3m?walls=safe"}, "environment is smax/2m, must be smax/3m;"),
        ({"name": "smax/2m_vs_3m"}, "environment is smax/2m, must be smax/2m_vs_3m;"),
        ({"num_agents": 3}, "number of agents is 2, must be 3"),
        ({"observation_size": 9}, "observation size is 2, must be 9"),
        ({"num_actions": 4}, "number of actions is 3, must be 4"),
    ],
)
def test_check_names_what_differs(changes, problem):
    full = ("smax/2m?walls=safe", spec(**changes).name, "dm2 record")
    refuses(lambda: episodes().check(spec(**changes)), problem, *full)


def test_summary_by_hand(tmp_path):
    size = episodes().save(tmp_path / "demos")
    demos = Demonstrations.load(tmp_path / "demos")
    summary = demos.summary()
    assert json.loads(json.dumps(summary)) == summary
    per_agent, provenance = summary.pop("per_agent"), summary.pop("provenance")
    assert summary == {
        "environment": "smax/2m?walls=safe",
        "environment_version": "jaxmarl 0.2.0",
        "agents": 2,
        "episodes": 2,
        "steps": 3,
        "episode_length": {"mean": 1.5, "min": 1, "max": 2},
        "observation_size": 2,
        "dtype": "float16",
        "fields": ["observations", "alive", "offsets", "actions", "legal", "returns", "won"],
        "win_rate": 0.5,
        "mean_return": 0.75,
        "concurrency": [0, 0],
        "concurrent": True,
        "file_bytes": size,
        "sha256": demos.sha256,
    }
    assert provenance == demos.provenance
    # Agent 0, alive throughout: (0.5 + 1 - 1 + 1 + 0.25 + 1) / 6; its second feature is always 1.
    assert per_agent[0] == {
        "concurrency": 0,
        "episodes": 2,
        "steps": 3,
        "steps_alive": 3,
        "episode_length": {"mean": 1.5, "min": 1, "max": 2},
        "absorbing": 5 / 8,
        "observation": {"mean": 2.75 / 6, "min": -1.0, "max": 1.0},
        "constant_features": 0.5,
    }
    # Agent 1 without its dead step: (2 + 3 + 4 - 5) / 4.
    assert per_agent[1]["steps_alive"] == 2
    assert per_agent[1]["observation"] == {"mean": 1.0, "min": -5.0, "max": 4.0}
    assert per_agent[1]["constant_features"] == 0.0


def test_constant_features_are_judged_on_live_steps():
    dead_last = agent(alive=np.array([True, False, False]))
    demos = Demonstrations((dead_last,), PROVENANCE | {"concurrency": [0]})
    assert demos.summary()["per_agent"][0]["constant_features"] == 1.0


def test_summary_counts_joint_episodes_once_and_admits_what_is_unknown():
    one = agent(won=np.array([True, True]))
    two = agent(offsets=np.array([0, 3]), won=np.array([False]))
    labels = PROVENANCE | {"concurrency": ["x", "y", "x"]}
    summary = Demonstrations((one, two, one), labels).summary()
    assert (summary["episodes"], summary["steps"]) == (3, 6)
    assert summary["episode_length"] == {"mean": 2.0, "min": 1, "max": 3}
    assert summary["win_rate"] == 2 / 3
    assert summary["mean_return"] is None
    assert summary["concurrent"] is False
    assert summary["file_bytes"] is None
    unknown = Demonstrations((agent(),), PROVENANCE | {"concurrency": [0], "win_rate": 0.25})
    assert unknown.summary()["win_rate"] == 0.25


def test_describe_is_readable_in_80_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    demos = Demonstrations((agent(),), PROVENANCE | {"concurrency": [0], "note": "[/by] hand"})
    console.print(describe(demos.summary()))
    text = console.export_text()
    assert "smax/2m?walls=safe" in text
    assert "1.5 (1 to 2)" in text  # episode length
    assert "mean return" in text and "unknown" in text
    assert "training step" in text and "1000" in text
    assert "[/by] hand" in text  # text from a file is no markup
    assert demos.sha256[:8] in text
    assert "absorbing" in text and "0.625" in text  # 3 of 8 steps alive
    assert "…" not in text


# --- the file ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory, data):
    e, t, k, o, a = (data.draw(st.integers(1, n)) for n in (4, 5, 3, 4, 5))
    width = data.draw(st.sampled_from([16, 32]))
    values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    observations = data.draw(hnp.arrays(np.float32, (e, t, k, o), elements=values))
    alive = data.draw(hnp.arrays(bool, (e, t, k)))
    alive[0, 0] = True
    length = data.draw(hnp.arrays(np.int64, e, elements=st.integers(1, t)))
    extra: dict[str, Any] = {}
    if data.draw(st.booleans()):
        extra["actions"] = data.draw(
            hnp.arrays(np.int64, (e, t, k), elements=st.integers(0, a - 1))
        )
    if data.draw(st.booleans()):
        extra["legal"] = data.draw(hnp.arrays(bool, (e, t, k, a)))
        extra["legal"][..., 0] = True
        if "actions" in extra:
            np.put_along_axis(extra["legal"], extra["actions"][..., None], True, axis=-1)
    if data.draw(st.booleans()):
        finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
        extra["returns"] = data.draw(hnp.arrays(np.float32, e, elements=finite))
    if data.draw(st.booleans()):
        extra["won"] = data.draw(hnp.arrays(bool, e))
    source = {"environment": data.draw(st.text(min_size=1)), "environment_version": "1"}
    source |= {"num_actions": a, "episode_limit": t, "note": data.draw(st.text())}
    extra["dtype"] = f"float{width}"
    demos = Demonstrations.from_episodes(observations, alive, length, source, **extra)

    path = tmp_path_factory.getbasetemp() / "round-trip"
    assert demos.save(path) == path.stat().st_size
    loaded = Demonstrations.load(path)
    assert_same(loaded, demos)
    assert loaded.sha256 == demos.sha256
    assert loaded.file_bytes == path.stat().st_size

    for i in range(k):  # against a plain loop over the recorded episodes
        for j, (begin, end) in enumerate(
            zip(loaded[i].offsets, loaded[i].offsets[1:], strict=False)
        ):
            n = length[j]
            np.testing.assert_array_equal(loaded[i].observations[begin:end], observations[j, :n, i])
            np.testing.assert_array_equal(loaded[i].alive[begin:end], alive[j, :n, i])
            for name in extra.keys() & {"actions", "legal"}:
                have = loaded[i].arrays()[name][begin:end]
                np.testing.assert_array_equal(have, extra[name][j, :n, i])
        for name in extra.keys() & {"returns", "won"}:
            np.testing.assert_array_equal(loaded[i].arrays()[name], extra[name])


def read_raw(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safetensors.safe_open(path, "np") as file:
        names = file.keys()
        return json.loads(file.metadata()["dm2"]), {n: file.get_tensor(n) for n in names}


def write_raw(path: Path, header: dict, tensors: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(tensors, path, {"dm2": json.dumps(header)})


def craft(path: Path, arrays: dict[str, np.ndarray], **changes) -> Path:
    """A file of one agent, written from the documented layout alone, sound in itself."""
    header = {"format": "dm2-demonstrations", "version": 1}
    header |= {"provenance": PROVENANCE | {"concurrency": [0]}}
    agents = [{n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in arrays.items()}]
    header |= {"agents": agents} | changes
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    tensors = {}
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
        packed = np.packbits(arrays[name]) if arrays[name].dtype == bool else arrays[name]
        tensors[f"0.{name}"] = np.frombuffer(zlib.compress(packed.tobytes()), np.uint8)
    write_raw(path, header | {"sha256": digest.hexdigest()}, tensors)
    return path


def test_the_file_is_laid_out_as_documented(tmp_path):
    arrays = agent(legal=np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)).arrays()
    loaded = Demonstrations.load(craft(tmp_path / "crafted", arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[0].arrays()[name], array)
    loaded.save(tmp_path / "saved")
    header, tensors = read_raw(tmp_path / "saved")
    assert header["sha256"] == loaded.sha256
    assert header["agents"][0]["legal"] == {"dtype": "bool", "shape": [3, 3]}
    # Rows 101, 010, 111 make the bits 10101011 1, the last byte filled up with zeros.
    assert zlib.decompress(tensors["0.legal"].tobytes()) == bytes([0b10101011, 0b10000000])
    observed = np.frombuffer(zlib.decompress(tensors["0.observations"].tobytes()), "<f2")
    np.testing.assert_array_equal(observed, [1, 2, 3, 4, 5, 6])


def test_views_and_foreign_byte_order_are_stored_right(tmp_path):
    observations = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2].T.astype(">f4")
    observations = np.asfortranarray(observations)
    demos = Demonstrations((agent(observations=observations),), PROVENANCE | {"concurrency": [0]})
    demos.save(tmp_path / "demos")
    loaded = Demonstrations.load(tmp_path / "demos")
    np.testing.assert_array_equal(loaded[0].observations, [[0, 6], [2, 8], [4, 10]])


def test_equal_contents_make_equal_files_and_hashes(tmp_path):
    episodes().save(tmp_path / "a")
    episodes().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = ALIVE.copy()
    other[0, 1, 1] = True
    legal_action = ACTIONS.copy()
    legal_action[0, 1, 1] = 1
    hashes = {episodes().sha256, episodes(provenance=PROVENANCE | {"seed": 6}).sha256}
    hashes |= {episodes(alive=other, actions=legal_action).sha256, episodes(won=~WON).sha256}
    assert len(hashes) == 4


def test_sparse_observations_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(40, 60, 3, 88)).astype(np.float32)
    observations *= (rng.random(88) < 0.5) & (rng.random((40, 60, 3, 88)) < 0.3)  # 85 % zeros
    alive, length = np.ones((40, 60, 3), bool), np.full(40, 60)
    source = PROVENANCE | {"episode_limit": 60}
    demos = Demonstrations.from_episodes(observations, alive, length, source)
    assert demos.save(tmp_path / "demos") < 40 * 60 * 3 * 88 * 2 / 2.5


def test_every_flipped_bit_is_caught(tmp_path):
    path = tmp_path / "demos"
    demos = Demonstrations((agent(),), PROVENANCE | {"concurrency": [0]})
    demos.save(path)
    data, caught = path.read_bytes(), 0
    for i in range(len(data)):
        flipped = bytearray(data)
        flipped[i] ^= 1 << (i % 8)
        path.write_bytes(flipped)
        try:  # deflate pads its last byte with bits that mean nothing: those may flip
            assert Demonstrations.load(path).sha256 == demos.sha256
        except InputError as error:
            assert str(error).startswith(f"{path}: "), error
            caught += 1
    assert caught >= len(data) - 3  # at most the last byte of each of the three arrays


def test_what_is_no_path_is_refused():
    number: Any = 3
    refuses(lambda: Demonstrations.load(number), "path = 3: must be a path")


def test_every_truncation_is_caught(tmp_path):
    path = tmp_path / "demos"
    episodes().save(path)
    data = path.read_bytes()
    for size in [*range(0, len(data), 13), len(data) - 1]:
        path.write_bytes(data[:size])
        refuses(lambda: Demonstrations.load(path), f"{path}: ", "safetensors", "damaged")


def test_a_changed_value_is_caught_by_the_hash(tmp_path):
    path = tmp_path / "demos"
    episodes().save(path)
    header, tensors = read_raw(path)
    header["provenance"]["seed"] = 8
    write_raw(path, header, tensors)
    refuses(lambda: Demonstrations.load(path), f"{path}: ", "sha256", "copy it again")
    episodes().save(path)
    header, tensors = read_raw(path)
    tensors["1.alive"] = np.frombuffer(zlib.compress(bytes([0b10000000])), np.uint8)
    write_raw(path, header, tensors)
    refuses(lambda: Demonstrations.load(path), f"{path}: ", "sha256", "copy it again")


def test_saving_after_the_provenance_was_changed(tmp_path):
    demos = episodes()
    before = demos.sha256
    demos.provenance["note"] = "added"
    demos.save(tmp_path / "demos")
    assert Demonstrations.load(tmp_path / "demos").sha256 != before


def test_foreign_files_are_named(tmp_path):
    path = tmp_path / "demos"
    refuses(lambda: Demonstrations.load(path), f"{path}: no such file", "dm2 record")
    refuses(lambda: Demonstrations.load(str(tmp_path)), f"{tmp_path}: not a file")
    path.write_text("step,reward\n1,2\n")
    refuses(lambda: Demonstrations.load(path), f"{path}: not a whole safetensors file")
    np.savez(tmp_path / "demos.npz", observations=OBSERVATIONS)
    refuses(lambda: Demonstrations.load(tmp_path / "demos.npz"), ".npz", "not safetensors")
    np.save(tmp_path / "demos.npy", OBSERVATIONS)
    refuses(lambda: Demonstrations.load(tmp_path / "demos.npy"), ".npy", "not safetensors")
    safetensors.numpy.save_file({"a": OBSERVATIONS}, path)
    refuses(lambda: Demonstrations.load(path), f"{path}: a safetensors file, but not dm2")


class Bomb:
    target = ""

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickle_is_refused_and_not_run(tmp_path):
    bomb = Bomb()
    bomb.target = str(tmp_path / "ran")
    for protocol in (0, 2, 5):
        path = tmp_path / "demos.pkl"
        path.write_bytes(pickle.dumps(bomb, protocol))
        kind = "a pickle, which can execute code" if protocol else "not a whole safetensors file"
        refuses(lambda path=path: Demonstrations.load(path), f"{path}: ", kind)
    assert not (tmp_path / "ran").exists()


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    episodes().save(tmp_path / "demos")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(safetensors, "safe_open", denied)
    refuses(lambda: Demonstrations.load(tmp_path / "demos"), "demos: cannot", "Permission denied")


ONE = agent().arrays()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"format": "other"}, ["unknown format"]),
        ({"version": 2}, ["format version 2", "reads version 1", "dm2 record"]),
        ({"version": None}, ["format version None"]),
        ({"agents": {}}, ["list of agents", "damaged"]),
        ({"agents": [3]}, ["agent 0 must have"]),
        ({"agents": [{"alive": {"dtype": "bool", "shape": [3]}}]}, ["agent 0 must have"]),
        ({"provenance": [1]}, ["provenance = [1]", "dictionary"]),
        ({"provenance": PROVENANCE}, ["provenance.concurrency is missing"]),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, changes, parts):
    path = craft(tmp_path / "demos", ONE, **changes)
    refuses(lambda: Demonstrations.load(path), f"{path}: ", *parts)


def test_a_header_that_is_no_json_object_is_refused(tmp_path):
    path = tmp_path / "demos"
    for text, part in (("{", "JSON"), ("[" * 100_000, "JSON"), ("[]", "unknown format")):
        safetensors.numpy.save_file({"a": np.zeros(1)}, path, {"dm2": text})
        refuses(lambda: Demonstrations.load(path), f"{path}: ", part)
    header = {"format": "dm2-demonstrations", "version": 1, "agents": []}
    write_raw(path, header, {})
    refuses(lambda: Demonstrations.load(path), "header lacks provenance")


@pytest.mark.parametrize(
    "declared",
    [
        {"dtype": "object", "shape": [3, 2]},
        {"dtype": "float64", "shape": [3, 2]},
        {"dtype": ["float16"], "shape": [3, 2]},
        {"dtype": "float16", "shape": [6]},
        {"dtype": "float16", "shape": [-3, -2]},
        {"dtype": "float16", "shape": [3.0, 2]},
        {"dtype": "float16", "shape": "32"},
        {"dtype": "float16"},
        "float16",
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path, declared):
    path = craft(tmp_path / "demos", ONE)
    header, tensors = read_raw(path)
    header["agents"][0]["observations"] = declared
    write_raw(path, header, tensors)
    refuses(lambda: Demonstrations.load(path), f"{path}: agent 0: observations is", "damaged")


def test_missing_and_surplus_tensors_are_named(tmp_path):
    path = craft(tmp_path / "demos", ONE)
    header, tensors = read_raw(path)
    without = {n: t for n, t in tensors.items() if n != "0.alive"}
    write_raw(path, header, without)
    refuses(lambda: Demonstrations.load(path), "tensors are missing: ['0.alive']")
    write_raw(path, header, tensors | {"1.alive": tensors["0.alive"]})
    refuses(lambda: Demonstrations.load(path), "tensors are not declared: ['1.alive']")
    write_raw(path, header, tensors | {"0.alive": np.zeros(3, np.float32)})
    refuses(lambda: Demonstrations.load(path), "tensor '0.alive' is F32, must be bytes")


def test_bad_values_in_a_sound_file_name_file_agent_and_step(tmp_path):
    observations = ONE["observations"].copy()
    observations[2, 1] = np.inf
    path = craft(tmp_path / "demos", ONE | {"observations": observations})
    place = f"{path}: agent 0: observations[2, 1] = inf (episode 1, step 0)"
    refuses(lambda: Demonstrations.load(path), place)
    path = craft(tmp_path / "demos", ONE | {"offsets": np.array([0, 3, 2])})
    refuses(lambda: Demonstrations.load(path), f"{path}: agent 0: offsets[2] = 2 after 3")


def test_decompression_stops_at_the_declared_size(tmp_path):
    path = craft(tmp_path / "demos", ONE)
    header, tensors = read_raw(path)
    for stream in (zlib.compress(bytes(50_000_000)), zlib.compress(bytes(11)), b"", b"no zlib"):
        tensors["0.observations"] = np.frombuffer(stream, np.uint8)
        write_raw(path, header, tensors)
        tracemalloc.start()
        try:
            refuses(lambda: Demonstrations.load(path), "agent 0: observations", "damaged")
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


def test_a_giant_is_refused_before_decompression(tmp_path, monkeypatch):
    path = craft(tmp_path / "demos", ONE)
    header, tensors = read_raw(path)
    header["agents"][0]["observations"]["shape"] = [2**30, 2**30]
    write_raw(path, header, tensors)
    monkeypatch.setattr(zlib, "decompressobj", None)
    refuses(lambda: Demonstrations.load(path), f"{path}: declares", "bytes of arrays, above")
    monkeypatch.setattr(file_module, "MAX_BYTES", 10)
    refuses(lambda: episodes().save(path), "bytes of arrays", "record fewer episodes")


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    path = tmp_path / "demos"
    episodes().save(path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        episodes(won=~WON).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    episodes(won=~WON).save(path)
    np.testing.assert_array_equal(Demonstrations.load(path)[0].won, ~WON)
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_whole_under_its_name(tmp_path, monkeypatch):
    moved, replace = [], os.replace

    def watched(source, target):
        assert Path(source).parent == Path(target).parent  # a rename across disks is not atomic
        moved.append(Demonstrations.load(source).sha256)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    episodes().save(tmp_path / "demos")
    assert moved == [episodes().sha256]


@pytest.mark.parametrize("write", ["save", "to_npz", "to_minari"])
def test_a_text_does_not_say_whether_a_file_may_be_replaced(tmp_path, unchecked_types, write):
    path = tmp_path / "demos.npz"
    path.write_text("mine")
    write = getattr(episodes(), write)
    refuses(lambda: write(path, overwrite="no"), "overwrite = 'no': must be True or False")
    assert path.read_text() == "mine"


def test_a_file_is_kept_where_it_is_asked_for(tmp_path):
    path = tmp_path / "demos"
    size = episodes().save(path, overwrite=False)
    before = path.read_bytes()
    other = episodes(won=~WON)
    refuses(lambda: other.save(path, overwrite=False), f"path = {str(path)!r}: exists", "overwrite")
    assert path.read_bytes() == before
    assert episodes().save(path, overwrite=False) == size  # the same contents are no harm
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    refuses(lambda: episodes().save(notes, overwrite=False), "exists")
    assert notes.read_text() == "mine"


def test_places_to_save(tmp_path):
    episodes().save(tmp_path / "new" / "folder" / "demos")
    refuses(lambda: episodes().save(tmp_path), f"path = {str(tmp_path)!r}: is a directory")
    within = tmp_path / "new" / "folder" / "demos" / "more"
    refuses(lambda: episodes().save(within), "cannot be written")
    # 255 bytes are what a name may have on common file systems.
    episodes().save(tmp_path / ("a" * 255))
    refuses(lambda: episodes().save(tmp_path / ("a" * 256)), "File name too long")

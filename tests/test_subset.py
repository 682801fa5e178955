"""Parts of demonstrations, and demonstrations of several recordings, on arrays made by hand."""

import re
from typing import Any

import numpy as np
import pytest

from conftest import refuses
from dm2.demos import AgentDemonstrations, Demonstrations, combine
from dm2.demos.provenance import as_ranges, from_ranges
from dm2.errors import InputError
from test_demos import PROVENANCE, spec

LENGTHS = (2, 1, 3, 1)
RETURNS = (2.0, -0.5, 0.1, 1.0)
WON = (True, False, False, True)


def part(k: int, mark: float, **changes: Any) -> AgentDemonstrations:
    """One agent's four episodes. An observation is (agent, 10 x episode + step + mark)."""
    rows = [(k, 10 * e + t + mark) for e, n in enumerate(LENGTHS) for t in range(n)]
    arrays = {
        "observations": np.array(rows, np.float16),
        "alive": np.ones(len(rows), bool),
        "offsets": np.cumsum([0, *LENGTHS]),
        "actions": np.array([int(value) % 3 for _, value in rows], np.int16),
        "legal": np.ones((len(rows), 3), bool),
        "returns": np.array(RETURNS, np.float32),
        "won": np.array(WON),
    }
    return AgentDemonstrations(**(arrays | changes))


def team(mark: float = 0, changes: dict | None = None, **source: Any) -> Demonstrations:
    """Two agents of the same joint episodes."""
    provenance = PROVENANCE | {"concurrency": [0, 0]} | source
    return Demonstrations(tuple(part(k, mark, **(changes or {})) for k in range(2)), provenance)


def apart() -> Demonstrations:
    """Two agents of different episodes, of which other ones were won."""
    other = part(1, 0, won=np.array([False, True, False, False]))
    source = {"concurrency": ["a", "b"], "seed": [3, 4], "episode_indices": ["0-3", "4,6-8"]}
    return Demonstrations((part(0, 0), other), PROVENANCE | source)


def marks(agent: AgentDemonstrations) -> list[float]:
    return agent.observations[:, 1].tolist()


# --- parts ------------------------------------------------------------------------------------


def test_the_first_episodes():
    whole = team()
    two = whole.subset(episodes=2)
    for k in range(2):
        assert two[k].observations.tolist() == [[k, 0], [k, 1], [k, 10]]
        assert two[k].offsets.tolist() == [0, 2, 3]
        arrays = two[k].arrays()
        assert arrays["actions"].tolist() == [0, 1, 1]
        assert arrays["legal"].shape == (3, 3)
        assert arrays["returns"].tolist() == [2.0, -0.5]
        assert arrays["won"].tolist() == [True, False]
    assert whole.provenance["win_rate"] == 0.5
    expected = whole.provenance | {"episodes": 2, "win_rate": 0.5, "episode_indices": "0-1"}
    expected |= {"subset": [{"of": whole.sha256, "episodes": 2}]}
    assert two.provenance == expected


def test_the_won_ones_and_those_in_a_range():
    won = team().subset(won=True)
    assert [marks(agent) for agent in won.agents] == [[0, 1, 30], [0, 1, 30]]
    assert (won.provenance["win_rate"], won.provenance["episodes"]) == (1.0, 2)
    assert won.provenance["episode_indices"] == "0,3"
    # Both ends count, also 0.1, which float32 rounds up.
    middle = team().subset(return_range=(0.1, 1.0))
    assert marks(middle[0]) == [20, 21, 22, 30]
    low = team().subset(return_range=(-1, 0.1))
    assert marks(low[0]) == [10, 20, 21, 22]
    assert low.provenance["win_rate"] == 0.0


def test_all_that_is_asked_for_holds_and_the_first_of_it_are_kept():
    one = team().subset(won=True, return_range=(0, 1.5), episodes=1, agent=1)
    assert len(one) == 1
    assert one[0].observations.tolist() == [[1, 30]]
    (done,) = one.provenance["subset"]
    assert {n: v for n, v in done.items() if n != "of"} == {
        "episodes": 1,
        "won": True,
        "return_range": [0.0, 1.5],
        "agent": 1,
    }


def test_a_part_of_a_part_says_all_that_was_done():
    whole = team()
    first = whole.subset(won=True)
    second = first.subset(return_range=(0, 1.5))
    assert second.provenance["episode_indices"] == "3"  # of the recording
    assert [done["of"] for done in second.provenance["subset"]] == [whole.sha256, first.sha256]
    assert whole.provenance.get("subset") is None


def test_agents_of_different_episodes_are_chosen_by_themselves():
    won = apart().subset(won=True)
    assert marks(won[0]) == [0, 1, 30]
    assert marks(won[1]) == [10]
    assert won.provenance["episode_indices"] == ["0,3", "6"]
    assert won.provenance["concurrency"] == ["a", "b"]
    assert won.provenance["episodes"] == 3
    assert won.provenance["win_rate"] == 1.0
    assert apart().provenance["win_rate"] == 3 / 8
    first = apart().subset(episodes=1)
    assert first.provenance["episode_indices"] == ["0", "4"]
    assert first.provenance["win_rate"] == 0.5


def test_one_agents_part_is_a_team_of_one_and_is_no_team():
    one = apart().subset(agent=1)
    np.testing.assert_array_equal(one[0].observations, apart()[1].observations)
    source = one.provenance
    assert (source["seed"], source["concurrency"], source["episode_indices"]) == (4, ["b"], "4,6-8")
    assert (source["agent"], source["team_agents"], source["episodes"]) == (1, 2, 4)
    assert source["win_rate"] == 0.25  # of its own episodes
    again = one.subset(episodes=2, agent=0)
    assert (again.provenance["agent"], again.provenance["team_agents"]) == (1, 2)
    alone = "do not fit smax/2m?walls=kill: they are the part of agent 1 alone, of a team of 2; "
    refuses(lambda: one.check(spec()), alone, "dm2 demos subset --agent")
    with pytest.warns(UserWarning, match="recorded with"):
        one.check(spec(num_agents=1))


def test_a_win_rate_that_was_only_reported():
    unknown = team(changes={"won": None}, win_rate=0.25)
    assert unknown.subset(agent=0).provenance["win_rate"] == 0.25  # the same episodes
    assert unknown.subset(episodes=1).provenance["win_rate"] is None


def test_a_subset_is_saved_and_read(tmp_path):
    part = apart().subset(won=True)
    part.save(tmp_path / "part")
    loaded = Demonstrations.load(tmp_path / "part")
    assert loaded.sha256 == part.sha256
    assert loaded.provenance == part.provenance


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({}, ["subset: nothing is asked for"]),
        ({"won": False}, ["subset: nothing is asked for"]),
        ({"episodes": 0}, ["episodes = 0: must be a whole number above 0"]),
        ({"episodes": 5}, ["episodes = 5: agent 0 has only 4 to take them from", "fewer"]),
        ({"episodes": 3, "won": True}, ["episodes = 3: agent 0 has only 2"]),
        ({"agent": 2}, ["agent = 2: must be a whole number from 0 to 1"]),
        ({"agent": -1}, ["agent = -1"]),
        ({"won": 1}, ["won = 1", "True or False"]),
        ({"return_range": (3, 4)}, ["return_range = [3.0, 4.0]: none of the 4 episodes of agent"]),
        ({"return_range": (1, 0)}, ["return_range = (1, 0)", "the lower one first"]),
        ({"return_range": (0, float("inf"))}, ["return_range = (0, inf)", "finite"]),
        ({"return_range": (0, float("nan"))}, ["return_range = (0, nan)", "finite"]),
        ({"return_range": (10**400, 1)}, ["return_range = (1000", "two finite numbers"]),
        ({"return_range": 3}, ["return_range = 3", "two finite numbers"]),
        ({"return_range": ("a", 3)}, ["return_range = ('a', 3)"]),
        (
            {"won": True, "return_range": (0, 0.5)},
            ["won = True, return_range = [0.0, 0.5]: none of the 4 episodes of agent 0 is left"],
        ),
    ],
)
def test_a_part_that_cannot_be_taken(asked, parts):
    refuses(lambda: team().subset(**asked), *parts)


def test_one_agent_may_be_left_with_nothing():
    never = part(1, 0, won=np.zeros(4, bool))
    demos = Demonstrations((part(0, 0), never), PROVENANCE | {"concurrency": [0, 1]})
    refuses(lambda: demos.subset(won=True), "none of the 4 episodes of agent 1 is left")
    dead = part(1, 0, alive=np.arange(7) > 5)
    demos = Demonstrations((part(0, 0), dead), PROVENANCE | {"concurrency": [0, 1]})
    refuses(lambda: demos.subset(episodes=1), "agent 1: alive is never true")


def test_what_is_not_known_cannot_be_chosen_by():
    cases: list[tuple[str, dict[str, Any]]]
    cases = [("won", {"won": True}), ("returns", {"return_range": (0, 1)})]
    for name, asked in cases:
        demos = team(changes={name: None})
        refuses(lambda demos=demos, asked=asked: demos.subset(**asked), *asked, "agent 0")


# --- ranges of indices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "text"),
    [([0], "0"), ([0, 1, 2, 5], "0-2,5"), ([7, 9, 10], "7,9-10"), ([5, 0, 1], "5,0-1")],
)
def test_ranges(indices, text):
    assert as_ranges(indices) == text
    assert from_ranges(text, len(indices)) == indices
    assert from_ranges(text, len(indices) + 1) is None


@pytest.mark.parametrize("count", [9, 10, 11])
def test_a_range_that_ends_before_it_begins_is_none(count):
    """Ten indices and two that would count as -1, or as none."""
    assert from_ranges("0-9,5-3", count) is None


# --- several recordings -----------------------------------------------------------------------


def test_each_agent_is_taken_from_its_own_recording():
    one, other = team(0, seed=1, win_rate=0.9), team(0.5, seed=2, note="n")
    both = combine([one, other], {"style": "by hand"})
    assert both[0].observations.tolist() == one[0].observations.tolist()
    assert both[1].observations.tolist() == other[1].observations.tolist()
    source = both.provenance
    assert (source["seed"], source["method"], source["style"]) == ([1, 2], "ippo", "by hand")
    assert source["note"] == [None, "n"]
    assert source["concurrency"] == [0, 1]
    assert not both.concurrent
    assert (source["episodes"], source["win_rate"]) == (8, 0.5)


def test_agents_of_one_recording_stay_concurrent():
    one, other = team(seed=1), team(seed=2)
    three = [Demonstrations((*x.agents, part(2, 0)), _three(x)) for x in (one, other)]
    some = combine([three[0], three[0], three[1]])
    assert some.provenance["concurrency"] == [0, 0, 1]
    assert some.provenance["episodes"] == 8
    assert combine([one, one]).provenance["episodes"] == 4
    # Two agents that were never together do not become so.
    assert combine([apart(), apart()]).provenance["concurrency"] == [0, 1]
    same = apart()
    assert combine([same, same]).provenance["concurrency"] == [0, 1]
    assert combine([same, same]).provenance["seed"] == [3, 4]


def _three(demos: Demonstrations) -> dict[str, Any]:
    return demos.provenance | {"concurrency": [0, 0, 0]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"environment": "smax/2m"}, "environment is 'smax/2m', that of recordings[0] is 'smax/2m"),
        ({"environment_version": "2"}, "environment_version is '2', that of recordings[0] is 'ja"),
        ({"num_actions": 4}, "num_actions is 4, that of recordings[0] is 3"),
        ({"episode_limit": 5}, "episode_limit is 5, that of recordings[0] is 4"),
    ],
)
def test_recordings_of_different_environments(changes, problem):
    plain = {"legal": None}
    pair = [team(changes=plain), team(changes=plain, **changes)]
    refuses(lambda: combine(pair), f"recordings[1]: {problem}", "of one environment")


def test_recordings_that_do_not_go_together():
    refuses(lambda: combine([]), "recordings: there are none")
    refuses(lambda: combine([team()]), "recordings[0]: has 2 agents, but there are 1 recordings")
    wide = np.zeros((7, 3), np.float16)
    pair = [team(), team(changes={"observations": wide})]
    refuses(lambda: combine(pair), "recordings[1]: observation size is 3, that of recordings[0]")
    exact = [agent.observations.astype(np.float32) for agent in team().agents]
    pair = [team(), team(changes={"observations": exact[0]})]
    problem = "recordings[1]: type of observations is 'float32', that of recordings[0] is 'float16'"
    refuses(lambda: combine(pair), problem, "stored in one type")
    problem = re.escape("provenance.policy = 'eager'")
    with pytest.raises(InputError, match=problem):
        combine([team(), team()], {"policy": "eager"})

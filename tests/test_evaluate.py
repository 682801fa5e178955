"""What a trained team is said to be worth and to have done, by hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dm2 import IPPO, Config, record
from dm2.demos.experts import load_experts
from dm2.rollout import Outcome
from dm2.run import evaluate as evaluating
from dm2.run.directory import RunDirectory
from dm2.run.log import Log
from test_demos import episodes

OUTCOME = Outcome(
    won=jnp.array([True, False, False, False]),
    returns=jnp.array([2.0, 0.5, 0.0, -0.5]),
    length=jnp.array([3, 12, 12, 9]),
)


class KnownPrograms:
    """Programs whose battles are known, so that what is made of them can be worked out."""

    def evaluate(self, agents, seed, step, episodes, greedy=True):
        """One victory in four."""
        self.asked = (int(seed), int(step), episodes, greedy)
        return OUTCOME


@pytest.mark.parametrize("stochastic", [False, True])
def test_evaluation_by_hand(small_run, monkeypatch, stochastic):
    known = KnownPrograms()
    monkeypatch.setattr(evaluating, "_load", lambda run, at: (known, None, 512))
    result = evaluating.evaluate(small_run, episodes=4, stochastic=stochastic, seed=9)
    assert known.asked == (9, 512, 4, not stochastic)
    assert result == {
        "win_rate": 0.25,
        "win_rate_standard_error": pytest.approx((0.25 * 0.75 / 4) ** 0.5),
        "mean_return": 0.5,  # (2 + 0.5 + 0 - 0.5) / 4
        "mean_length": 9.0,  # (3 + 12 + 12 + 9) / 4
        "episodes": 4,
        "step": 512,
    }


def test_what_a_run_writes_by_hand(tmp_path):
    run = RunDirectory.create(tmp_path / "run", Config(IPPO(), "smax/3m", eval_episodes=4), {})
    totals = {"ended": 4, "won": 1, "returns": 6.0, "length": 40}
    with Log(run) as log:
        metrics = {"episodes": totals, "agents": {"x": np.array([1.0, 2.0])}}
        assert log.iteration(128, metrics, 7.0) == 0.25
        nothing = {"episodes": dict.fromkeys(totals, 0), "agents": {}}
        assert log.iteration(256, nothing, 7.0) is None
        assert log.evaluation(256, OUTCOME) == 0.25
    first, second, third = run.read_metrics()
    assert first == {
        "kind": "train",
        "step": 128,
        "episodes": 4,
        "train_win_rate": 0.25,
        "mean_return": 1.5,
        "mean_length": 10.0,
        "steps_per_s": 7.0,
        "x": [1.0, 2.0],
    }
    assert (second["train_win_rate"], second["mean_return"], second["mean_length"]) == (None,) * 3
    means = {"win_rate": 0.25, "mean_return": 0.5, "mean_length": 9.0}
    assert third == {"kind": "eval", "step": 256, "episodes": 4, **means}
    (events,) = (run.path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"train/train_win_rate") == 1
    assert events.read_bytes().count(b"eval/win_rate") == 1


def test_a_recording_goes_on_where_a_batch_ends(small_run, monkeypatch):
    monkeypatch.setattr(evaluating, "_RECORD_BATCH", 2)
    demos = record(small_run, episodes=5, seed=3)
    one = demos[0]
    assert one.num_episodes == 5
    assert one.won is not None
    assert demos.provenance["win_rate"] == np.mean(one.won)
    # Every episode is drawn anew, also those of later batches.
    openings = [one.observations[i].tobytes() for i in one.offsets[:-1]]
    assert len(set(openings)) == 5


def test_a_recording_is_sampled_unless_greedy_is_asked_for(small_run, monkeypatch):
    programs = evaluating._load(small_run, None)[0]
    original, asked = programs.record, []

    def spy(agents, key, episodes, greedy, *more):
        asked.append(greedy)
        return original(agents, key, episodes, greedy, *more)

    monkeypatch.setattr(programs, "record", spy)
    for greedy, policy in ((False, "stochastic"), (True, "greedy")):
        demos = record(small_run, episodes=2, greedy=greedy)
        assert demos.provenance["policy"] == policy
    assert asked == [False, True]


def test_every_agent_is_given_its_own_expert():
    demos = episodes()
    experts = load_experts(demos, 4)
    for k, agent in enumerate(demos.agents):
        mine = jax.tree.map(lambda x, k=k: np.asarray(x[k]), experts)
        rows = agent.observations[agent.alive]
        assert mine.size == len(rows)
        np.testing.assert_array_equal(mine.observations[: len(rows)], rows)
    # Two episodes of at most 4 steps; agent 0 was alive at 3 of those 8 steps, agent 1 at 2.
    assert experts.size.tolist() == [3, 2]
    np.testing.assert_allclose(experts.absorbing, [5 / 8, 6 / 8])

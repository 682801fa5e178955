"""What is recorded, of which teams and with which behaviour, compared with the plain recordings."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import SMALL, hashes, refuses
from dm2 import IPPO, PPO, Config, Demonstrations, make, record, record_style
from dm2.agent.learner import Learner
from dm2.agent.types import View
from dm2.errors import InputError
from dm2.methods.independent import Independent
from dm2.rollout import MixedTeam, Outcome, play
from dm2.run import record as recording
from dm2.run.behaviour import Behaviour, largest_epsilon
from dm2.run.directory import RunDirectory
from dm2.run.programs import programs_for
from dm2.run.styles import STYLES
from dm2.run.team import TrainedTeam, load_team
from test_cli import refused, run, run_json
from toy_env import LIMIT, ToyEnv, random_agents

K, N = 3, 4
ENV = "smax/3m?limit=12"

# --- teams that explore -----------------------------------------------------------------------


class Counting:
    """Players whose favourite action is the one after their last, so that a play shows what they
    remember. Where it is illegal they take the first legal one."""

    num_agents = K

    def memory(self, num_envs):
        """They begin as if they had done action 2."""
        return jnp.full((K, num_envs), 2)

    def act(self, state, memory, keys, view, greedy):
        """Acts, and remembers what was done."""
        favourite = jax.nn.one_hot((memory + 1) % 3, 3)
        actions = jnp.argmax(jnp.where(view.legal, 1 + favourite, 0), axis=-1)
        return actions, actions, None


def explore(epsilon, key, count=500, env=None):
    env = env or ToyEnv(name=2)  # an episode of six steps
    how = {"greedy": True, "record": True}
    program = jax.jit(lambda key, e: play(env, Counting(), None, key, count, epsilon=e, **how))
    _, kept = program(key, None if epsilon is None else jnp.asarray(epsilon))
    return jax.tree.map(np.asarray, kept)


def test_who_explores_does_a_random_legal_thing_and_remembers_it():
    key, epsilon = jax.random.PRNGKey(5), 0.3
    kept = explore(epsilon, key)
    assert np.take_along_axis(kept.legal, kept.actions[..., None], -1).all()
    _, act_key, _ = jax.random.split(key, 3)
    explored = 0
    for k in range(K):
        # The stream that `play` states, apart from that by which agents act.
        own = jax.random.fold_in(jax.random.fold_in(act_key, k), LIMIT)
        last = np.full(500, 2)
        for t in range(LIMIT):
            draw = jax.random.uniform(jax.random.split(jax.random.fold_in(own, t))[1], (500,))
            free = np.asarray(draw) < epsilon
            favourite = np.eye(3)[(last + 1) % 3]
            greedy = np.where(kept.legal[t, k], 1 + favourite, 0).argmax(-1)
            np.testing.assert_array_equal(kept.actions[t, k][~free], greedy[~free])
            if kept.alive[t, k].all():
                explored += free.sum()
                # Half of the random actions are the other one of the two legal ones.
                other = (kept.actions[t, k] != greedy)[free].mean()
                assert abs(other - 0.5) < 5 * 0.5 / free.sum() ** 0.5
            last = kept.actions[t, k]
    living = kept.alive.all(axis=2).sum() * 500
    spread = (epsilon * (1 - epsilon) / living) ** 0.5
    assert abs(explored / living - epsilon) < 5 * spread


def test_the_recorded_legal_actions_are_those_of_the_environment():
    kept, plain = explore(1.0, jax.random.PRNGKey(0)), explore(None, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(kept.legal[0], plain.legal[0])


def test_with_probability_0_nothing_changes_and_agents_may_differ():
    key = jax.random.PRNGKey(1)
    plain, never = explore(None, key), explore(0.0, key)
    np.testing.assert_array_equal(plain.actions, never.actions)
    one = explore([0.0, 1.0, 0.0], key)
    differs = [(one.actions[0, k] != plain.actions[0, k]).mean() for k in range(K)]
    assert (differs[0], differs[2]) == (0, 0)
    assert abs(differs[1] - 0.5) < 0.1


def test_exploration_is_each_agents_own_and_grows_with_its_probability():
    key = jax.random.PRNGKey(2)
    plain, some, more = (explore(e, key).actions[0] for e in (None, 0.2, 0.5))
    left = some != plain  # at the first step, where all are in the same state
    assert (more[left] == some[left]).all()
    assert (more != plain).sum() > left.sum() > 0
    for k in range(K):  # a tenth each; independent, so both in a hundredth of the episodes
        both = (left[k] & left[(k + 1) % K]).mean()
        assert abs(both - 0.01) < 5 * (0.01 / 500) ** 0.5


# --- teams of strangers -----------------------------------------------------------------------


def test_an_agent_of_a_mixed_team_acts_as_in_its_own():
    """For several steps, sampled and greedy, on views and memories of its own team's making."""
    sizes = (4, 3)
    teams = [Independent(Learner(PPO(hidden=h), None, *sizes), K) for h in (4, 8)]
    states = tuple(random_agents(team, seed) for seed, team in enumerate(teams))
    origins = [1, 0, 1]
    mixed = MixedTeam(teams, origins)
    act, *acts = (jax.jit(one.act, static_argnames="greedy") for one in (mixed, *teams))
    rng = np.random.default_rng(0)
    for greedy in (False, True):
        memory, own = mixed.memory(N), [team.memory(N) for team in teams]
        for t in range(3):
            legal = rng.random((K, N, 3)) < 0.7
            legal[..., 0] = True
            observations = rng.normal(size=(K, N, 4)).astype(np.float32)
            facts = (observations, legal, np.ones((K, N), bool), np.full((K, N), t == 0))
            view = View(*map(jnp.asarray, facts))
            keys = jax.random.split(jax.random.PRNGKey(t), K)
            memory, actions, _ = act(states, memory, keys, view, greedy=greedy)
            for i in range(2):
                own[i], alone, _ = acts[i](states[i], own[i], keys, view, greedy=greedy)
                for k in np.flatnonzero(np.array(origins) == i):
                    assert actions[k].tolist() == alone[k].tolist()
                for mine, theirs in zip(
                    jax.tree.leaves(memory[i]), jax.tree.leaves(own[i]), strict=True
                ):
                    np.testing.assert_array_equal(mine, theirs)


def test_a_mixed_team_needs_teams_of_its_size():
    with pytest.raises(InputError, match=r"teams\[0\].num_agents = 3: must be 2, .*of one size"):
        MixedTeam([Counting()], [0, 0])
    named = r"origins = \[0, 1, 0\]: must name teams by their index, from 0 to 0"
    with pytest.raises(InputError, match=named):
        MixedTeam([Counting()], [0, 1, 0])


# --- the largest probability that costs little ------------------------------------------------


class Losing:
    """Programs of a team that loses a known share of 512 episodes at each probability."""

    def __init__(self, loss, best=1.0, wins=True):
        spec = dataclasses.replace(make("smax/3m").spec, wins=wins)
        self.env, self.loss, self.best = SimpleNamespace(spec=spec), loss, best
        self.asked = []

    def evaluate(self, agents, seed, step, episodes, greedy, epsilon):
        """The same number of wins whenever it is asked."""
        self.asked.append((int(seed), int(step), episodes, greedy))
        won = np.arange(episodes) < round(episodes * (self.best - self.loss(float(epsilon))))
        return Outcome(jnp.asarray(won), jnp.zeros(episodes), jnp.ones(episodes, int))

    def found(self) -> Behaviour:
        """What is found for it."""
        return largest_epsilon(TrainedTeam(None, self, None, 512), 9)  # pyright: ignore


@pytest.mark.parametrize(
    ("slope", "best", "epsilon", "win_rate"),
    [
        # 51 of 512 episodes may be lost, 51.2 being a tenth: 512 x 0.0996 = 51.
        (1.0, 1.0, 0.1, 461 / 512),
        # 410 are won before. At 0.19, 0.705 x 512 = 361 are; at 0.2 it is 358, 52 fewer.
        (0.5, 0.8, 0.19, 361 / 512),
        (0.0, 1.0, 1.0, 1.0),
        (50.0, 1.0, 0.0, 1.0),
        (0.1, 1.0, 1.0, 461 / 512),
    ],
)
def test_the_largest_epsilon_by_hand(slope, best, epsilon, win_rate):
    team = Losing(lambda e: min(slope * e, 1.0), best)
    found = team.found()
    assert found.epsilon == epsilon
    before = round(512 * best) / 512
    assert found.search == {"episodes": 512, "greedy_win_rate": before, "win_rate": win_rate}
    assert found.greedy
    assert set(team.asked) == {(9, 512, 512, True)}  # common random numbers
    assert len(team.asked) <= 8


def test_epsilon_cannot_be_found_where_there_is_nothing_to_lose():
    number = "give a number instead"
    refuses(Losing(abs, wins=False).found, "epsilon = 'auto'", "nobody can win in smax/3m", number)
    problem = "the greedy team wins 9.0% of its episodes and has too little to lose"
    refuses(Losing(lambda e: 0.0, best=0.09).found, "epsilon = 'auto'", problem, number)


# --- recordings of runs -----------------------------------------------------------------------


def untrained(folder, seed, env=ENV):
    """A run whose checkpoints are of agents that have not learnt, which takes no training."""
    config = Config(IPPO(PPO(hidden=8)), env, seed=seed, **SMALL)
    programs = programs_for(config.program)
    version = {"environment": {"version": programs.env.spec.version}}
    run = RunDirectory.create(folder / f"seed_{seed}", config, version)
    run.save_checkpoint(0, programs.init(jnp.uint32(seed)))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teams")
    return [untrained(folder, seed) for seed in (4, 5, 6)]


@pytest.fixture(scope="module")
def together(runs):
    """Of each run, a recording of as many episodes as disjoint ones take."""
    return [record(run, episodes=K * N, seed=1) for run in runs]


def same_part(mine, theirs, first=0):
    """Whether an agent's N episodes are those of another recording from the first on."""
    theirs = theirs.select(np.arange(first, first + N))
    for name, array in mine.arrays().items():
        np.testing.assert_array_equal(array, theirs.arrays()[name])


def test_co_trained_and_concurrent_is_what_record_does(runs):
    demos = record_style(runs[:1], "co-trained-concurrent", episodes=N, seed=1)
    plain = record(runs[0], episodes=N, seed=1)
    for k in range(K):
        same_part(demos[k], plain[k])
    path = str(runs[0].path)
    added = {"style": "co-trained-concurrent", "run": path, "episode_indices": "0-3"}
    assert demos.provenance == plain.provenance | added


def test_co_trained_and_disjoint(runs, together):
    demos = record_style(runs[:1], "co-trained-disjoint", episodes=N, seed=1)
    for k in range(K):
        same_part(demos[k], together[0][k], N * k)
    source = demos.provenance
    assert source["episode_indices"] == ["0-3", "4-7", "8-11"]
    assert source["concurrency"] == [0, 1, 2]
    assert (source["seed"], source["episodes"]) == (4, K * N)


def test_mixed_and_disjoint(runs, together):
    demos = record_style(runs, "mixed-disjoint", episodes=N, seed=1)
    for k in range(K):
        same_part(demos[k], together[k][k], N * k)
    source = demos.provenance
    assert source["episode_indices"] == ["0-3", "4-7", "8-11"]
    assert (source["seed"], source["concurrency"]) == ([4, 5, 6], [0, 1, 2])
    assert source["run"] == [str(run.path) for run in runs]
    assert (source["training_step"], source["style"]) == (0, "mixed-disjoint")


def test_mixed_with_the_same_indices(runs):
    demos = record_style(runs, "mixed-same-indices", episodes=N, seed=1)
    plain = [record(run, episodes=N, seed=1) for run in runs]
    for k in range(K):
        same_part(demos[k], plain[k][k])
    source = demos.provenance
    assert source["episode_indices"] == "0-3"
    # Not concurrent, whatever the authors' code calls it: the agents never met.
    assert (source["seed"], source["concurrency"]) == ([4, 5, 6], [0, 1, 2])
    assert source["episodes"] == K * N


def test_mixed_and_concurrent(runs):
    """Joint episodes, in which each agent does what it would do in its own team on what it
    observes there."""
    demos = record_style(runs, "mixed-concurrent", episodes=N, greedy=True, seed=1)
    source = demos.provenance
    assert (source["seed"], source["concurrency"]) == ([4, 5, 6], [0, 0, 0])
    assert (source["episodes"], source["policy"]) == (N, "greedy")
    assert source["episode_indices"] == "0-3"
    for k in range(K):
        for name in ("offsets", "returns", "won"):
            np.testing.assert_array_equal(getattr(demos[k], name), getattr(demos[0], name))
    teams = [load_team(run, None) for run in runs]
    method = teams[0].programs.method
    act = jax.jit(lambda *x: method.act(*x, greedy=True)[:2])
    arrays = [agent.arrays() for agent in demos.agents]
    for e in range(N):
        memories = [method.memory(1) for _ in runs]
        steps = range(demos[0].offsets[e], demos[0].offsets[e + 1])
        for t in steps:
            rows = [(x["observations"][t], x["legal"][t], x["alive"][t]) for x in arrays]
            fields = [jnp.asarray(np.stack(field))[:, None] for field in zip(*rows, strict=True)]
            starts = jnp.full((K, 1), t == steps.start)
            view = View(fields[0].astype(jnp.float32), fields[1], fields[2], starts)
            for k, team in enumerate(teams):
                keys = jnp.zeros((K, 2), jnp.uint32)
                memories[k], actions = act(team.state, memories[k], keys, view)
                if demos[k].alive[t]:
                    assert actions[k, 0] == arrays[k]["actions"][t]


def test_recordings_go_on_where_batches_end(runs, together, monkeypatch):
    """Agents' episodes begin within batches; they are those of the whole recording still."""
    monkeypatch.setattr(recording, "BATCH", 5)
    whole = record(runs[0], episodes=K * N, seed=1)
    demos = record_style(runs[:1], "co-trained-disjoint", episodes=N, seed=1)
    for k in range(K):
        same_part(demos[k], whole[k], N * k)
    assert (
        whole[0].observations.shape != together[0][0].observations.shape
        or (whole[0].observations != together[0][0].observations).any()
    )


def test_a_recording_that_explores(runs):
    demos = record(runs[0], episodes=N, epsilon=1, actions=False)
    source = demos.provenance
    assert (source["policy"], source["epsilon"]) == ("epsilon-greedy", 1.0)
    assert set(demos[0].arrays()) == {"observations", "alive", "offsets", "returns", "won"}
    for others in (record(runs[0], episodes=N, greedy=True), record(runs[0], episodes=N)):
        assert others.provenance["policy"] in ("greedy", "stochastic")
        assert "epsilon" not in others.provenance
        assert others[0].actions is not None and others[0].legal is not None
        assert others.sha256 != demos.sha256


def test_observations_are_stored_in_the_type_that_suits_the_environment(runs, tmp_path, capsys):
    """Float16 for a battle, exactly what is observed elsewhere; and whatever is asked for."""
    half, exact = record(runs[0], episodes=N), record(runs[0], episodes=N, dtype="float32")
    assert half[1].observations.dtype == np.float16
    np.testing.assert_array_equal(
        half[1].observations, exact[1].observations.astype(np.float16), strict=True
    )
    assert (half[1].observations != exact[1].observations).any()
    out = tmp_path / "exact"
    arguments = (runs[0].path, "--episodes", N, "--dtype", "float32", "--out", out)
    run_json(capsys, "record", *arguments)
    assert Demonstrations.load(out).sha256 == exact.sha256
    for style in ("mixed-same-indices", "mixed-concurrent"):
        demos = record_style(runs, style, episodes=2, dtype="float32")
        assert [agent.observations.dtype for agent in demos.agents] == [np.float32] * K
    refuses(lambda: record(runs[0], dtype="float64"), "dtype = 'float64'; use float16 or float32")

    far = untrained(tmp_path / "far", 1, "stand_ins_jax:Far")
    demos = record(far, episodes=2)
    places = 8 * (demos[0].observations[:, 0] - 1e5)
    assert set(places.tolist()) <= set(range(6)) and demos[0].observations.dtype == np.float32
    remedy = "above float16; use dtype float32, `--dtype float32`"
    refuses(lambda: record(far, episodes=2, dtype="float16"), "observations reach 100000", remedy)
    error = refused(
        capsys, "record", far.path, "--episodes", 2, "--dtype", "float16", "--out", tmp_path / "new"
    )
    assert remedy in error


@pytest.mark.learning
def test_each_run_finds_its_own_epsilon(runs, monkeypatch):
    found = {4: 0.1, 5: 0.2, 6: 0.3}

    def known(team, seed):
        return Behaviour(True, found[team.run.config.seed], {"episodes": 512})

    monkeypatch.setattr("dm2.run.behaviour.largest_epsilon", known)
    for style in ("mixed-concurrent", "mixed-disjoint"):
        demos = record_style(runs, style, episodes=2, epsilon="auto", actions=False)
        assert demos.provenance["epsilon"] == [0.1, 0.2, 0.3]
        assert demos.provenance["epsilon_search"] == {"episodes": 512}
        assert demos[0].actions is None
    assert record(runs[1], episodes=2, epsilon="auto").provenance["epsilon"] == 0.2


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"epsilon": 0.1, "greedy": True}, "greedy = True: goes with epsilon = None alone"),
        ({"epsilon": "auto", "greedy": True}, "greedy = True: goes with epsilon = None alone"),
        ({"epsilon": 1.01}, "epsilon = 1.01: must be a number from 0 to 1, or 'auto'"),
        ({"epsilon": -0.1}, "epsilon = -0.1: must be"),
        ({"epsilon": float("nan")}, "epsilon = nan: must be"),
        ({"epsilon": "0.1"}, "epsilon = '0.1': must be"),
        ({"epsilon": 10**400}, "epsilon = 1000"),
        ({"epsilon": True}, "epsilon = True: must be"),
        ({"episodes": 0}, "episodes = 0: must be a whole number above 0"),
        ({"at": 77}, "has no checkpoint of step 77"),
    ],
)
def test_a_behaviour_that_is_none(runs, asked, problem):
    refuses(lambda: record(runs[0], **asked), problem)
    refuses(lambda: record_style(runs, "mixed-disjoint", **asked), problem)


@pytest.mark.parametrize("style", STYLES)
def test_another_number_of_runs(runs, style):
    two = f"runs: there are 2, for style {style!r} there must be "
    want = "3, as every agent of" if style.startswith("mixed") else "1, as all agents"
    refuses(lambda: record_style(runs[:2], style), two + want, "or choose another style")
    refuses(lambda: record_style([], style), "runs: there are none")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("given", "style", "problem"),
    [
        ([], ["mixed"], "style = ['mixed']: must be one of co-trained-conc"),
        (
            "w/t1",
            "co-trained-disjoint",
            "runs = 'w/t1': must be a list of runs; put a single one into",
        ),
        (Path("w/t1"), "co-trained-disjoint", "must be a list of runs"),
        (3, "co-trained-disjoint", "runs = 3: must be a list of runs"),
    ],
)
def test_runs_or_a_style_of_another_type(given, style, problem):
    refuses(lambda: record_style(given, style), problem)


def test_runs_that_do_not_go_together(runs, tmp_path):
    refuses(lambda: record_style(runs, "mixed"), "style = 'mixed': must be one of co-trained-conc")

    def refused_with(other, *parts):
        given = [runs[0], other, runs[2]]
        refuses(lambda: record_style(given, "mixed-concurrent"), *parts)

    seeds = "give runs that were trained with different seeds"
    refused_with(str(runs[0].path), "runs[1]", "is the same run as runs[0]", seeds)
    refused_with(untrained(tmp_path / "a", 4), "runs[1]", "has seed 4, as has runs[0]", seeds)
    of_one = "give runs of one environment and version"
    limited = untrained(tmp_path / "b", 5, "smax/3m?limit=13")
    problem = "environment is 'smax/3m?limit=13', of runs[0] it is 'smax/3m?limit=12'"
    refused_with(limited, "runs[1]", problem, of_one)
    old = untrained(tmp_path / "c", 5)
    old.info["environment"] = {"version": "0.0"}
    refused_with(old, "runs[1]", "version is '0.0', of runs[0] it is 'smax ", of_one)


# --- the command line -------------------------------------------------------------------------


def test_combine_and_subset_by_command(capsys, runs, tmp_path):
    before = hashes(runs[0].path)
    out, part = tmp_path / "new" / "mixed", tmp_path / "part"
    paths = [run.path for run in runs]
    common = ("--style", "mixed-same-indices", "--episodes", N, "--epsilon", 0.5, "--no-actions")
    said = run_json(capsys, "demos", "combine", *paths, *common, "--seed", 1, "--out", out)
    demos = Demonstrations.load(out)
    assert said == {
        "file": str(out),
        "bytes": out.stat().st_size,
        "episodes": K * N,
        "epsilon": 0.5,
        "win_rate": demos.provenance["win_rate"],
        "mean_return": demos.mean_return,
    }
    again = record_style(
        paths, "mixed-same-indices", episodes=N, epsilon=0.5, actions=False, seed=1
    )
    assert demos.sha256 == again.sha256
    assert hashes(runs[0].path) == before

    code, text, note = run(capsys, "demos", "subset", out, "--episodes", 2, "--out", part)
    assert (code, "episodes" in text) == (0, True)
    assert (
        note == "dm2: note: agents come from different episodes; each agent's were chosen by "
        "themselves\n"
    )
    assert Demonstrations.load(part).sha256 == demos.subset(episodes=2).sha256
    keep = ("--agent", 1, "--return-range", -100, 100, "--overwrite")
    said = run_json(capsys, "demos", "subset", out, *keep, "--out", part)
    assert said["episodes"] == N
    code, text, _ = run(capsys, "demos", "inspect", part)
    assert code == 0
    for line in ("provenance: style +mixed-same-indices", "provenance: episode indices +0-3"):
        assert re.search(line, text), text


def test_commands_replace_nothing_unasked_and_leave_nothing_behind(capsys, runs, tmp_path):
    out = tmp_path / "team"
    record(runs[0], episodes=2).save(out)
    before = hashes(tmp_path)
    combine = ("demos", "combine", runs[0].path, "--style", "co-trained-concurrent", "--out")
    for command in ((*combine, out), ("demos", "subset", out, "--episodes", 1, "--out", out)):
        error = refused(capsys, *command)
        assert error.startswith(f"dm2: out = {str(out)!r}: exists, and runs may depend on it; ")
    other = tmp_path / "other"
    refused(capsys, *combine, other, "--episodes", 0)
    refused(capsys, *combine, other, "--greedy", "--epsilon", 0.1)
    refused(capsys, "record", runs[0].path, "--greedy", "--epsilon", "auto", "--out", other)
    refused(capsys, "demos", "subset", out, "--return-range", 1000, 1001, "--out", other)
    refused(capsys, "demos", "subset", tmp_path / "absent", "--won", "--out", other)
    refused(capsys, "demos", "combine", "--style", "mixed-disjoint", "--out", other)
    refused(capsys, *combine[:-2], "mixed", "--out", other)
    assert hashes(tmp_path) == before


def test_epsilon_cannot_be_found_for_a_team_that_never_wins(capsys, runs, tmp_path):
    """Nobody wins within twelve steps without having learnt to."""
    out = tmp_path / "team"
    error = refused(capsys, "record", runs[0].path, "--epsilon", "auto", "--out", out)
    assert error.startswith("dm2: epsilon = 'auto': the greedy team wins 0.0% of its episodes")
    assert not out.exists()

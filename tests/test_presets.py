"""Settings by name: whose numbers they are, and that the command line takes them."""

import dataclasses

import pytest

import dm2
from dm2.errors import InputError
from dm2.methods import METHODS
from test_cli import run, run_json


def test_the_papers_tables():
    """Wang et al. 2023, Tables 1 and 2, and the authors' settings of the two further tasks."""
    rows = {
        "5m_vs_6m": (10, 0.05, 0.3, 70, 20_000_000),
        "3s_vs_4z": (15, 0.2, 0.05, 200, 20_000_000),
        "3s_vs_3z": (15, 0.2, 0.3, 150, 10_000_000),
        "3s_vs_5z": (15, 0.05, 0.1, 250, 10_000_000),
        "8m_vs_9m": (15, 0.05, 0.4, 120, 10_000_000),
    }
    for task, (epochs, clip, coefficient, limit, steps) in rows.items():
        config = dm2.Config(**dm2.preset("paper", "dm2", f"smac/{task}"), demos="x")
        assert (config.num_envs, config.rollout_steps, config.steps) == (1024, limit, steps)
        method = config.method
        assert isinstance(method, dm2.DM2)
        ppo, imitation = method.ppo, method.imitation
        assert (ppo.epochs, ppo.clip, ppo.learning_rate) == (epochs, clip, 5e-4)
        assert (ppo.minibatches, ppo.head_gain, ppo.hidden) == (1, 0.01, 64)
        assert (imitation.coefficient, imitation.updates) == (coefficient, 120)
        assert imitation.unit == "reward"
        assert method.last_action
        assert method.agent_id
    assert dm2.preset("paper", "sil", "smac/3s_vs_4z")["method"].best.episodes == 1024
    qmix = dm2.preset("paper", "qmix", "smac/3s_vs_4z?reward=signed")
    assert (qmix["method"].q.optimiser, qmix["method"].q.capacity) == ("rmsprop", 5000)
    assert dm2.preset("paper", "rmappo", "smac/3s_vs_4z")["num_envs"] == 8


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_both(method):
    for name, env in (("paper", "smac/3s_vs_3z"), ("tuned", "smac/3s_vs_3z"), ("tuned", "smax/3m")):
        demos = "x" if METHODS[method].imitates else None
        config = dm2.Config(**dm2.preset(name, method, env), demos=demos)
        assert type(config.method) is METHODS[method]
        config.method.build(dm2.make(env).spec, config.num_envs)
    usual = METHODS[method]()
    assert dm2.preset("tuned", method, "smax/3m")["method"] == usual
    if isinstance(usual, dm2.IPPO):
        falling = dm2.preset("tuned", method, "smac/3m")["method"].ppo
        assert (falling.entropy, falling.entropy_end) == (0.05, 0.005)
        assert (falling.entropy_begin, falling.entropy_share) == (0.25, 0.0)  # at once


def test_what_the_paper_says_nothing_of():
    for env in ("smax/3s_vs_4z", "smac/3m", "jaxmarl/MPE_simple_spread_v3", ""):
        with pytest.raises(
            InputError, match=r"preset = 'paper': says nothing of .* it is for smac"
        ):
            dm2.preset("paper", "ippo", env)
    with pytest.raises(InputError, match=r"preset = 'best': must be one of tuned, paper"):
        dm2.preset("best", "ippo", "smax/3m")


def test_an_environment_that_there_is_not():
    with pytest.raises(InputError, match="env = 'smax/3n': no such environment; did you mean"):
        dm2.preset("tuned", "ippo", "smax/3n")
    for env in ("mine:factory", "jaxmarl/any", ""):  # what only `make` looks up, and none
        assert dm2.preset("tuned", "ippo", env)["env"] == env


def test_flags_go_before_the_preset(capsys, tmp_path):
    """The preset gives defaults; what is said on the command line counts."""
    words = ("train", "ippo", "--preset=paper", "--env", "smac/3s_vs_4z", "--ppo.clip", 0.3)
    words += ("--num-envs", 8, "--steps", 1)
    said = run_json(capsys, *words, "--out", tmp_path / "x", "--dry-run")
    assert said["steps"] == 8 * 200
    code, _, err = run(
        capsys, "train", "ippo", "--preset", "paper", "--env", "smax/3m", "--out", tmp_path / "y"
    )
    assert code == 2
    assert "preset = 'paper': says nothing of smax/3m" in err
    assert not (tmp_path / "y").exists()


@pytest.mark.learning  # for its time
def test_a_run_knows_what_preset_and_flags_made_of_it(capsys, tmp_path):
    out = tmp_path / "run"
    words = ("train", "ippo", "--preset=paper", "--env", "smac/3s_vs_4z", "--ppo.clip", 0.3)
    words += ("--num-envs", 8, "--steps", 1)
    few = ("--rollout-steps", 2, "--eval-episodes", 1, "--ppo.hidden", 4, "--ppo.epochs", 1)
    run_json(capsys, *words, *few, "--out", out)
    config = dm2.load(out).config
    method = dm2.preset("paper", "ippo", "smac/3s_vs_4z")["method"]
    ppo = dataclasses.replace(method.ppo, clip=0.3, hidden=4, epochs=1)
    assert config.method == dataclasses.replace(method, ppo=ppo).settled("smac/3s_vs_4z")


def test_cloning_alone_leaves_the_papers_imitation_out(capsys, tmp_path):
    """What a preset sets is no mistake of the user; what the user sets is."""
    words = ("train", "bc", "--preset", "paper", "--env", "smac/3s_vs_4z")
    words += ("--cloning.then", "nothing", "--demos", tmp_path / "none", "--out", tmp_path / "x")
    assert "no such file" in run(capsys, *words)[2]
    said = run(capsys, *words, "--imitation.updates", 3)[2]
    assert "imitation.updates = 3: is not used with cloning.then = 'nothing'" in said

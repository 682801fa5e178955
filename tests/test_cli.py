"""The command line as a user meets it: output, exit codes, one clear error for bad input."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conftest import hashes
from dm2 import DM2, IPPO, PPO, Config, Imitation
from dm2.cli import main
from dm2.run import progress

TINY = ["--num-envs", "8", "--rollout-steps", "16", "--ppo.hidden", "8", "--ppo.epochs", "1"]
TINY += ["--ppo.minibatches", "2", "--eval-every", "256", "--eval-episodes", "4"]


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments):
    """The one JSON object on standard output, and nothing else there."""
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def refused(capsys, *arguments):
    """The message of a command that must exit with 2, without a traceback."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err
    assert "Traceback" not in err
    return err


def test_help_lists_every_command_and_what_it_does(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    commands = ["train", "resume", "evaluate", "record", "export", "demos", "compare", "study"]
    commands += ["watch", "check", "doctor", "bench", "theory"]
    assert re.findall(r"• (\w+) +[A-Z]", out) == commands


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        ("ippo", [("", IPPO), ("ppo.", PPO)]),
        ("dm2", [("", DM2), ("ppo.", PPO), ("imitation.", Imitation)]),
    ],
)
def test_help_says_every_default(capsys, method, groups):
    code, out, _ = run(capsys, "train", method, "--help")
    assert code == 0
    said = {}
    for option in re.split(r"^[│ ] (?=--)", out, flags=re.MULTILINE)[1:]:
        flag, *words = option.replace("│", " ").split()
        found = re.search(r"\(default: (.*?)\)", " ".join(words))
        if found:
            said[flag] = found[1]
    defaults = {"--seeds": "None", "--jobs": "None", "--dry-run,": "False", "--json,": "False"}
    defaults["--preset"] = "tuned"
    for prefix, settings in [("", Config), *groups]:
        for field in dataclasses.fields(settings):
            if field.default is not dataclasses.MISSING:
                flag = f"--{prefix}{field.name}".replace("_", "-")
                flag += "," if field.default is False else ""
                defaults[flag] = "" if field.default == () else str(field.default)
    assert said == defaults


@pytest.mark.parametrize(
    ("method", "things"),
    [
        ("dm2", {"ppo.learning-rate": "learning rate", "imitation.coefficient": "coefficient c"}),
        ("qmix", {"q.epsilon": "share of random actions", "q.learning-rate": "learning rate"}),
    ],
)
def test_every_setting_of_a_schedule_names_what_it_changes(capsys, method, things):
    """Each entry of the help is read by itself."""
    _, out, _ = run(capsys, "train", method, "--help")
    entries = re.split(r"^[│ ] (?=--)", out, flags=re.MULTILINE)[1:]
    told = {
        words[0]: " ".join(words[2:]) for words in (e.replace("│", " ").split() for e in entries)
    }
    for prefix, thing in things.items():
        schedule = [flag for flag in told if re.fullmatch(f"--{prefix}(-[a-z]+)?", flag)]
        assert schedule
        for flag in schedule:
            assert thing in told[flag].lower(), flag


def test_version(capsys):
    assert run(capsys, "--version") == (0, "dm2 0.1.0\n", "")


@pytest.mark.learning  # for its time: the README's commands go the same way
def test_train_then_everything_else(capsys, tmp_path, small_demos):
    out = tmp_path / "runs"
    common = ["--env", "smax/3m?limit=12", "--steps", 256, *TINY]
    trained = run_json(capsys, "train", "ippo", *common, "--out", out / "ippo", "--seeds", 2)
    assert [path.rsplit("/", 1)[1] for path in trained["runs"]] == ["seed_0", "seed_1"]
    assert trained["steps"] == 256
    demos = ["--demos", small_demos, "--imitation.updates", 2, "--imitation.batch", 16]
    run_json(capsys, "train", "dm2", *common, *demos, "--out", out / "dm2")
    resumed = run_json(capsys, "resume", out / "dm2", "--steps", 512)
    assert resumed["steps"] == 512
    result = run_json(capsys, "evaluate", out / "dm2", "--episodes", 5)
    assert result["episodes"] == 5
    assert {"win_rate", "mean_return"} <= result.keys()
    recorded = tmp_path / "team.safetensors"
    report = run_json(capsys, "record", out / "dm2", "--episodes", 3, "--out", recorded)
    assert report["bytes"] == recorded.stat().st_size
    summary = run_json(capsys, "demos", "inspect", recorded)
    assert summary["episodes"] == 3
    figure = tmp_path / "figure.png"
    compared = run_json(capsys, "compare", out, "--out", figure)
    methods = compared["smax/3m?limit=12"]
    assert methods["ippo"]["runs"] == 2
    assert {"steps_to_50", "steps_to_80", "area", "final_win_rate"} <= methods["dm2"].keys()
    assert figure.stat().st_size > 10_000
    named = run_json(capsys, "compare", out / "ippo", out / "dm2", "--labels", "A", "B")
    assert set(named["smax/3m?limit=12"]) == {"A", "B"}
    assert "labels" in refused(capsys, "compare", out, "--labels", "A", "B")
    film = tmp_path / "battle.gif"
    run_json(capsys, "watch", out / "dm2", "--out", film)
    assert film.read_bytes()[:3] == b"GIF"
    # For people, one line a fact, and no path that could be taken for one.
    code, text, _ = run(capsys, "compare", out)
    assert code == 0
    for line in (r"smax/3m\?limit=12", r"ippo .*", r"2 seeds .*", r"1 seed .*"):
        assert re.search(rf"^ *{line} *$", text, re.MULTILINE), (line, text)


def test_people_are_told_what_json_says(capsys, small_run, small_demos):
    played = ("evaluate", small_run.path, "--episodes", 5)
    figures = run_json(capsys, *played)
    code, text, _ = run(capsys, *played)
    assert code == 0
    shown = dict(line.split() for line in text.splitlines())
    assert shown.pop("environment") == figures.pop("environment") == "smax/3m?limit=12"
    assert {k: float(v) for k, v in shown.items()} == pytest.approx(figures, rel=1e-3)

    other = ("--env", "smax/3m?limit=5")
    assert run_json(capsys, *played, *other)["environment"] == "smax/3m?limit=5"

    summary = run_json(capsys, "demos", "inspect", small_demos)
    code, text, _ = run(capsys, "demos", "inspect", small_demos)
    assert code == 0
    facts = {name: value for name, value in summary.items() if isinstance(value, str | int | float)}
    assert {"environment", "episodes", "steps", "win_rate", "sha256"} <= facts.keys()
    facts["provenance: method"] = summary["provenance"]["method"]
    for name, value in facts.items():
        line = rf"^ *{name.replace('_', ' ')}  +(\S.*?) *$"
        (said,) = re.findall(line, text, re.MULTILINE)
        if isinstance(value, float):
            assert float(said) == pytest.approx(value, rel=1e-3), name
        else:
            assert said == str(value), name


def test_doctor(capsys):
    report = run_json(capsys, "doctor")
    assert report["computes"] is True
    assert "smax/3s_vs_4z" in report["environments"]


def test_progress_goes_to_standard_error_in_lines(tmp_path):
    command = [sys.executable, "-m", "dm2", "train", "ippo", "--env", "smax/3m?limit=12"]
    command += ["--steps", "256", *TINY, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # The run's last line; its team was evaluated.
    line = (
        r"ippo smax/3m\?limit=12 seed 0  0\.00/0\.00 M steps  [\d,]+ steps/s  wins: test \d+ %, .*"
    )
    assert re.fullmatch(line, done.stderr.splitlines()[-1])
    assert "\x1b" not in done.stderr + done.stdout
    assert done.stdout.startswith("runs")


def test_progress_says_how_far_how_fast_and_how_well(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with progress.Reporter("ippo 3m", 4_000_000, 1_000_000) as reporter:
        reporter.evaluated(0.25)
        clock[0] = 120.0
        reporter.advanced(2_000_000, 0.5)  # a million steps in 20 s: two million more in 40 s
        reporter.advanced(2_000_000, None)  # not ten seconds later: no line until the end
        assert capsys.readouterr().err.count("\n") == 1
    out, err = capsys.readouterr()
    wins = "wins: test 25 %, training 50 %"
    assert err == f"ippo 3m  2.00/4.00 M steps  50,000 steps/s  {wins}  40 s left\n"
    assert out == ""


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ("smax/3s_vs_4zz", "no such environment; did you mean 'smax/3s_vs_4z'? known: "),
        ("smacs/3s_vs_4z", "no such environment; did you mean 'smac/3s_vs_4z'? known: "),
        ("smax/3m?wall=safe", "no option 'wall'; known: walls, reward, limit\n"),
        ("smax/3m?walls=soft", "walls must be 'safe' or 'lethal'\n"),
        ("smax/3m?limit=0", "limit must be a whole number from 1 to 2147483647\n"),
    ],
)
def test_a_wrong_environment(capsys, tmp_path, env, hint):
    error = refused(capsys, "train", "ippo", "--env", env, "--out", tmp_path / "run")
    assert error.startswith(f"dm2: env = {env!r}: {hint}")
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_names_the_known_ones(capsys, tmp_path):
    error = refused(capsys, "train", "ipo", "--env", "smax/3m", "--out", tmp_path / "run")
    assert "ippo" in error


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--steps", 0),
        ("--steps", -5),
        ("--num-envs", 0),
        ("--rollout-steps", -1),
        ("--eval-episodes", 0),
        ("--seed", -1),
        ("--ppo.minibatches", 3),
        ("--ppo.clip", 0.0),
        ("--ppo.learning-rate", "nan"),
        ("--ppo.discount", 1.5),
        ("--checkpoint-steps", -4),
    ],
)
def test_bad_settings_name_field_and_value(capsys, tmp_path, flag, value):
    arguments = ["train", "ippo", "--env", "smax/3m", "--out", tmp_path / "run"]
    error = refused(capsys, *arguments, flag, value)
    field = flag.removeprefix("--").replace("-", "_")
    assert error.startswith(f"dm2: {field} = {value}: must ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_seeds_must_be_positive(capsys, tmp_path):
    arguments = ["train", "ippo", "--env", "smax/3m", "--out", tmp_path / "run"]
    assert "seeds = 0" in refused(capsys, *arguments, "--seeds", 0)
    assert "jobs = 2" in refused(capsys, *arguments, "--jobs", 2)


def test_dm2_needs_demonstrations_and_ippo_none(capsys, tmp_path, small_demos):
    arguments = ["--env", "smax/3m", "--out", tmp_path / "run"]
    assert "dm2 record" in refused(capsys, "train", "dm2", *arguments)
    error = refused(capsys, "train", "ippo", *arguments, "--demos", small_demos)
    assert "leave demos out" in error


def test_demonstrations_that_do_not_fit_or_are_damaged(capsys, tmp_path, small_demos):
    arguments = ["train", "dm2", "--out", tmp_path / "run", "--demos"]
    error = refused(capsys, *arguments, small_demos, "--env", "smax/5m_vs_6m")
    assert "environment is smax/3m, must be smax/5m_vs_6m" in error
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(small_demos.read_bytes()[:-100])
    for command in ((*arguments, cut, "--env", "smax/3m"), ("demos", "inspect", cut)):
        error = refused(capsys, *command)
        assert error.startswith(f"dm2: {cut}: ")
        assert "the file is damaged: copy it again" in error
    absent = tmp_path / "absent.safetensors"
    error = refused(capsys, *arguments, absent, "--env", "smax/3m")
    assert error.startswith(f"dm2: {absent}: no such file; ")
    assert not (tmp_path / "run").exists()


def test_a_run_directory_in_use_or_of_another_version(capsys, tmp_path, small_run):
    arguments = ["train", "ippo", "--env", "smax/3m", "--out"]
    assert "in use" in refused(capsys, *arguments, small_run.path)
    assert "not a run" in refused(capsys, "resume", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    text = (small_run.path / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"dm2_version": "0.1', '"dm2_version": "9.9'))
    for command in ("resume", "evaluate"):
        error = refused(capsys, command, other)
        assert "9.9" in error


def test_an_absent_checkpoint_names_the_present_ones(capsys, small_run):
    error = refused(capsys, "evaluate", small_run.path, "--at", 99999)
    # Of 128 steps an iteration: 782 reach 99999.
    assert error.endswith(": has no checkpoint of step 99999; choose one of 256, 512\n")


def test_a_film_needs_a_known_suffix(capsys, small_run, tmp_path):
    assert ".gif" in refused(capsys, "watch", small_run.path, "--out", tmp_path / "x.png")
    other = ("--out", tmp_path / "x.gif", "--env", "smax/5m_vs_6m")
    assert "env = 'smax/5m_vs_6m'" in refused(capsys, "watch", small_run.path, *other)


def test_compare_needs_runs(capsys, tmp_path):
    assert refused(capsys, "compare").startswith("dm2: runs: none given; ")
    assert str(tmp_path) in refused(capsys, "compare", tmp_path)


def test_a_recording_replaces_no_file_unasked_and_looks_first(
    capsys, small_run, tmp_path, monkeypatch
):
    from dm2.run import record

    out = tmp_path / "new" / "team.safetensors"
    command = ("record", small_run.path, "--episodes", 2, "--out", out)
    run_json(capsys, *command)
    before = out.read_bytes()
    assert run_json(capsys, *command, "--seed", 1, "--overwrite")["bytes"] == out.stat().st_size
    assert out.read_bytes() != before
    monkeypatch.setattr(record, "record", None)  # nothing is played where it would be for nothing
    error = refused(capsys, *command)
    assert error.startswith(f"dm2: out = {str(out)!r}: exists, and runs may depend on it; ")
    for bad in (tmp_path, out / "below", tmp_path / ("a" * 300)):
        assert "dm2: out = " in refused(capsys, "record", small_run.path, "--out", bad)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(capsys, small_run, tmp_path, seed):
    message = f"dm2: seed = {seed}: must be a whole number from 0 to 4294967295\n"
    assert refused(capsys, "evaluate", small_run.path, "--seed", seed) == message
    out = ("--out", tmp_path / "x")
    assert refused(capsys, "record", small_run.path, "--seed", seed, *out) == message
    out = ("--out", tmp_path / "x.gif")
    assert refused(capsys, "watch", small_run.path, "--seed", seed, *out) == message
    assert not list(tmp_path.iterdir())


def in_a_process(*arguments, shell="", **environment):
    """A command as a shell starts it: what it printed, and its exit code."""
    words = shlex.join([sys.executable, "-m", "dm2", *map(str, arguments)])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {shell}"],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_64_bits_are_refused_in_one_line(small_run):
    done = in_a_process("evaluate", small_run.path, JAX_ENABLE_X64="1")
    assert done.returncode == 2
    assert done.stderr == "dm2: JAX_ENABLE_X64 = true: dm2 computes in 32 bits; unset it\n"


def test_an_encoding_that_lacks_letters(small_run):
    done = in_a_process("train", "dm2", "--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "DM? (Wang et al. 2023" in done.stdout
    done = in_a_process("compare", small_run.path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("shell", "code", "shown"), [("2>&-", 0, True), (">&-", 0, False), ("2>&- >&-", 0, False)]
)
def test_closed_streams(small_run, shell, code, shown):
    before = hashes(small_run.path)
    done = in_a_process("evaluate", small_run.path, "--episodes", 2, shell=shell)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("win_rate" in done.stdout) == shown
    assert hashes(small_run.path) == before


@pytest.mark.learning  # for its time
def test_training_with_nobody_to_tell(tmp_path):
    """Standard error is closed, or leads to a pipe that nobody reads on."""
    common = ["train", "ippo", "--env", "smax/3m?limit=12", "--steps", 256, *TINY, "--out"]
    assert in_a_process(*common, tmp_path / "closed", shell="2>&-").returncode == 0
    assert in_a_process(*common, tmp_path / "pipe", shell="2>&1 >/dev/null | true").returncode == 0
    one, other = (tmp_path / name / "checkpoints" for name in ("closed", "pipe"))
    assert [p.name for p in one.iterdir()] == [p.name for p in other.iterdir()] == ["000000000256"]


def test_a_reader_who_has_enough(small_run):
    done = in_a_process("doctor", shell="| head -c 1")
    assert done.stdout == "d"
    assert done.stderr == ""


def test_warnings_are_one_line_each(capsys, small_run, tmp_path, small_demos):
    common = ["--env", "smax/3m?limit=20", "--steps", 128, *TINY, "--out", tmp_path / "run"]
    common += ["--imitation.updates", 1, "--imitation.batch", 8, "--demos", small_demos, "--json"]
    code, _, err = run(capsys, "train", "dm2", *common)
    assert code == 0
    recorded = "dm2: warning: the demonstrations were recorded with"
    assert err.splitlines() == [
        f"{recorded} environment smax/3m?limit=12, this run has smax/3m?limit=20",
        f"{recorded} episode limit 12, this run has 20",
    ]
    common[common.index(tmp_path / "run")] = tmp_path / "several"
    code, _, again = run(capsys, "train", "dm2", *common, "--seeds", 2, "--jobs", 1)
    assert (code, again) == (0, err)  # once, not once a seed
    common[common.index(tmp_path / "several")] = tmp_path / "other"
    error = refused(capsys, "train", "dm2", *common, "--imitation.survival", "absorbing")
    assert "episode limit is 12, must be 20" in error
    assert not (tmp_path / "other").exists()


def test_training_that_diverges_exits_with_1(capsys, tmp_path):
    common = ["--env", "smax/3m?limit=12", "--steps", 12800, *TINY, "--out", tmp_path / "run"]
    code, out, err = run(capsys, "train", "ippo", *common, "--ppo.learning-rate", 1e25, "--json")
    assert (code, out) == (1, "")
    pattern = (
        r"dm2: failed: .*: training diverged: (\w+) of agent (\d) is not finite at step (\d+); .*"
    )
    found = re.fullmatch(pattern + "train again with a lower learning rate\n", err)
    assert found, err
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    quantity, agent, step = found.groups()
    record = {"kind": "diverged", "step": int(step), "agent": int(agent), "quantity": quantity}
    assert last == record


@pytest.mark.learning
def test_tasks_without_wins_are_told_by_their_returns(capsys, tmp_path):
    env = "jaxmarl/MPE_simple_spread_v3?limit=5"
    common = ["--env", env, "--steps", 512, *TINY, "--out", tmp_path / "run"]
    code, _, err = run(capsys, "train", "ippo", *common)
    assert code == 0
    assert re.search(r"steps/s  return: test -[\d.]+, training -[\d.]+", err)
    played = run_json(capsys, "evaluate", tmp_path / "run", "--episodes", 5)
    assert played["win_rate"] is None and played["mean_return"] < 0
    _, text, _ = run(capsys, "evaluate", tmp_path / "run", "--episodes", 5)
    assert "win_rate" not in text and "mean_return " in text
    compared = run_json(capsys, "compare", tmp_path)[env]["ippo"]
    assert compared["measure"] == "return"
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "eval" and last["win_rate"] is None
    recorded = run_json(
        capsys, "record", tmp_path / "run", "--episodes", 5, "--out", tmp_path / "x"
    )
    assert recorded["win_rate"] is None and recorded["mean_return"] < 0


def test_a_full_disk_exits_with_1(capsys, tmp_path, monkeypatch):
    from dm2 import files

    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_synced", fail)
    arguments = ["--env", "smax/3m?limit=12", "--steps", 256, *TINY]
    code, _, err = run(capsys, "train", "ippo", *arguments, "--out", tmp_path / "run")
    assert code == 1
    assert f"dm2: failed: {tmp_path / 'run'}" in err
    assert "No space left on device; earlier checkpoints are intact" in err
    assert "Traceback" not in err


def test_a_dry_run_checks_where_and_how_many(capsys, tmp_path, small_run):
    common = ("train", "ippo", "--env", "smax/3m?limit=12", "--dry-run")
    taken = tmp_path / "taken" / "seed_1"
    shutil.copytree(small_run.path, taken)
    (tmp_path / "file").touch()
    for arguments, said in (
        (("--out", small_run.path), "is in use; go on with `dm2 resume"),
        (("--out", tmp_path / "file" / "run"), "out = "),
        (("--out", tmp_path / "x", "--seeds", 0), "seeds = 0: must be a whole number above 0"),
        (("--out", tmp_path / "x", "--seeds", 2, "--jobs", 0), "jobs = 0: must be a whole number"),
        (("--out", taken.parent, "--seeds", 2), "seed_1: holds a run with other settings"),
    ):
        assert said in refused(capsys, *common, *arguments)
    assert run_json(capsys, *common, "--out", tmp_path / "x", "--seeds", 2)["iterations"] > 0
    assert not (tmp_path / "x").exists()

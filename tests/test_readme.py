"""The README's commands and its Python example run as they stand, only smaller."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from dm2.cli import main
from dm2.methods import METHODS

README = Path(__file__).parent.parent / "README.md"
SMALLER = ["--num-envs", "8", "--rollout-steps", "16", "--ppo.hidden", "8", "--ppo.epochs", "1"]
SMALLER += ["--ppo.minibatches", "2", "--eval-every", "256", "--eval-episodes", "2"]


def blocks(language, page="README.md"):
    text = (README.parent / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("dm2 ")]


def shrink(line):
    line = re.sub(r"--steps \d+", "--steps 256", line)
    line = re.sub(r"--checkpoint-steps \d+", "--checkpoint-steps 128", line)
    line = re.sub(r"--at \d+", "--at 128", line)
    line = re.sub(r"--episodes \d+", "--episodes 3", line)
    line = re.sub(r"--seeds \d+", "--seeds 1", line)
    arguments = shlex.split(line, comments=True)[1:]
    return arguments + (SMALLER if arguments[0] == "train" else [])


def test_the_readme_has_commands():
    names = [command.split()[1] for command in commands()]
    assert {"train", "record", "demos", "compare", "watch", "evaluate", "resume"} <= set(names)


def test_the_commands_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line in commands():
        assert main(shrink(line)) == 0, (line, capsys.readouterr().err)


SMALL = "num_envs=8, rollout_steps=16, eval_episodes=2"


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_python_examples_work(tmp_path, monkeypatch, capsys, page):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dm2.methods.METHODS", dict(METHODS))
    examples = blocks("python", page)
    assert examples
    for example in examples:
        small = re.sub(r"steps=[\d_]+", f"steps=256, {SMALL}", example)
        small = re.sub(r"(?<!_)episodes=[\d_]+", "episodes=3", small)
        small = small.replace("dm2.IPPO(", "dm2.IPPO(ppo=dm2.PPO(hidden=8, epochs=1)")
        small = small.replace("dm2.DM2(", "dm2.DM2(ppo=dm2.PPO(hidden=8, epochs=1), ")
        exec(compile(small, page, "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("'episodes': 3") == 1
    trained = sorted(path.parent.name for path in tmp_path.glob("runs/*/metrics.jsonl"))
    assert trained == (["python", "taught"] if page == "README.md" else ["at-random"])


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(str(page.relative_to(README.parent)) for page in README.parent.glob("docs/*.md"))


def anchors(page):
    """What a page's headings are called in links, as GitHub does: small letters, no punctuation."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", name.lower()).replace(" ", "-") for name in headings}


def test_the_names_of_headings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# SMAC's rules\n```text\n# a comment\n```\n## Form, death and `dm2`\n")
    assert anchors(page) == {"smacs-rules", "form-death-and-dm2"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    here = README.parent / page
    text = re.sub(r"```.*?```", "", here.read_text(), flags=re.DOTALL)
    for path, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
        there = (here.parent / path).resolve() if path else here
        assert there.exists(), (page, path)
        assert not anchor or anchor in anchors(there), (page, path, anchor)


def test_the_tables_of_claims_are_of_the_committed_results():
    spec = importlib.util.spec_from_file_location("claims", README.parent / "scripts" / "claims.py")
    assert spec is not None and spec.loader is not None
    claims = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(claims)
    page = claims.PAGE.read_text()
    assert page.count("\n| DM² learns faster than IPPO. (DM² − IPPO) | 2, `fig2` |") == 1
    assert claims.tables(page) == page, "run `python scripts/claims.py`"
    # What is not of the results is written anew.
    assert claims.tables(page.replace("| claim | figure |", "| else | nothing |")) == page

"""The studies that come with the library: the paper's figures, and some that go beyond it."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from dm2.envs.workers import quiet_output
from dm2.errors import InputError
from dm2.studies.registry import beyond, paper
from dm2.studies.scales import Scale
from dm2.studies.study import Study

__all__ = ["STUDIES", "find_study"]

STUDIES: dict[str, Callable[[Scale], Study]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        paper.fig2,
        paper.fig3,
        paper.fig4,
        paper.fig5,
        paper.fig6,
        paper.fig7,
        paper.fig8,
        beyond.magail,
        beyond.amount,
        beyond.other_reward,
        beyond.strangers,
        beyond.starts,
        beyond.falling,
        beyond.gradient_norm,
        beyond.methods,
        beyond.coefficient,
        beyond.reward_form,
    )
}


def find_study(name: str, scale: Scale) -> Study:
    """A study by its name, or a user's own from a Python file.

    Args:
        name: A name in `STUDIES`, or the path of a file that ends in `.py` and defines a function
            `study(scale)` that returns a `Study`.
        scale: On which tasks and with how many seeds.

    Raises:
        InputError: If there is no such study, or the file does not define one with a name of its
            own.
    """
    if name.endswith(".py"):
        return _from_file(Path(name), scale)
    if name not in STUDIES:
        known = ", ".join(STUDIES)
        raise InputError(f"study = {name!r}: must be one of {known}, or a Python file of your own")
    return STUDIES[name](scale)


def _from_file(path: Path, scale: Scale) -> Study:
    if not path.is_file():
        raise InputError(f"study = {str(path)!r}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"dm2_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with quiet_output():
            spec.loader.exec_module(module)
            made = module.study(scale)
    except InputError as error:
        raise InputError(f"study = {str(path)!r}: {error}") from None
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
        remedy = "it must define a function study(scale) that returns a dm2.studies.study.Study"
        raise InputError(f"study = {str(path)!r}: {problem}; {remedy}") from error
    if not isinstance(made, Study):
        raise InputError(f"study = {str(path)!r}: study(scale) returned {made!r}, must be a Study")
    if made.name in STUDIES:
        problem = f"name = {made.name!r}: is a study of the library's, whose files it would share"
        raise InputError(f"study = {str(path)!r}: {problem}; choose another")
    return made

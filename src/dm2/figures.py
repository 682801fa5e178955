"""Figures that look alike on every machine, and files of them that are whole or absent."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dm2.files import check_target, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "MUTED", "check_figure", "drawing", "save_figure"]

INK, MUTED, GRID = "#333333", "#5B6770", "#E4E7EA"
"""The colours of text and axes, of what stands back, and of grids."""
_UNDATED = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""By suffix: the metadata without a date, so that the same numbers give the same file."""


def check_figure(out: str | Path) -> Path:
    """The path of a figure that can be written; writing it makes missing parent folders.

    Raises:
        InputError: If the name does not end in .png, .pdf or .svg, or the file cannot be written.
    """
    return check_target("out", out, tuple(_UNDATED))


def drawing(settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """A context with matplotlib's own defaults and these settings, whatever the user's matplotlibrc
    says."""
    import matplotlib.style

    ours: dict[Any, Any] = {**settings, "svg.hashsalt": "dm2"}
    return matplotlib.style.context(["default", ours])


def save_figure(figure: "Figure", out: Path, dpi: int) -> None:
    """Writes a figure, wholly or not at all, to a path that `check_figure` returned. Raises
    OSError."""
    suffix = out.suffix.lower()
    with replacing(out) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=_UNDATED[suffix])

"""Films of battles: a GIF or an MP4 of what an environment's `frame` shows.

Drawing is in points, 480 to the film's width, with the origin at the upper left. `_Pen` turns them
into pixels of a canvas twice the film's size; halving that is the anti-aliasing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from dm2.envs.base import Frame, Renderable
from dm2.errors import InputError
from dm2.files import check_target, replacing

__all__ = ["check_film", "render"]

_WIDTH, _HEADER, _FOOTER = 480, 48, 24
_SUPERSAMPLING = 2
_MARGIN = 1.5  # map units kept free around the battle
_WALL = 1.0  # map units shown beyond the map, so that a unit at its edge is not cut
_HOLD_SECONDS = 1.5

# Blue and vermilion look different with every common colour blindness (Okabe and Ito, 2008).
_BODY = ((36, 120, 200), (200, 62, 30))  # allies, enemies
_GLOW = ((126, 200, 255), (255, 168, 120))  # their outlines and shots
_VOID, _GROUND, _GRID, _EDGE = (13, 17, 23), (24, 31, 41), (35, 44, 56), (74, 88, 104)
_GREY, _TEXT, _LOW = (128, 136, 146), (236, 240, 244), (240, 196, 64)
_SHIELD = (96, 220, 220)
_COLOURS = (*_BODY, *_GLOW, _VOID, _GROUND, _GRID, _EDGE, _GREY, _TEXT, _LOW, _SHIELD)

_Colour = tuple[int, int, int]
_Number = float | int  # the tests check types at run time, where an int is no float
_Point = tuple[_Number, _Number]


def render(
    frames: Sequence[Frame],
    scene: Renderable,
    path: Path,
    *,
    title: str,
    outcome: str | None,
    scores: Sequence[float] | None = None,
    ranges: bool = False,
    fps: int = 8,
    size: int = 480,
) -> Path:
    """Films a battle.

    One picture per frame; the last, which carries `outcome`, is held for 1.5 s. The camera stands
    still and takes in all that happens. Equal arguments give equal files, and `path` never holds
    half a film. Missing parent folders are made.

    Args:
        frames: One `Frame` per environment step, from the start (step 0) on. `target` is whom the
            unit shot at on the step that led to the frame.
        scene: The environment.
        path: Ends in `.gif`, or in `.mp4` (needs `pip install 'dm2[video]'`).
        title: Shown in the header, shortened to fit.
        outcome: For example "won"; None for none.
        scores: The return so far, one per frame, shown in the header; None for none.
        ranges: Circles that show how far the living units shoot.
        fps: Environment steps per second, 1 to 50. A GIF rounds a step's time to 10 ms.
        size: Width in pixels, even, 240 to 1920; the height follows from the map's shape.

    Returns:
        `path`.

    Raises:
        InputError: If there are no frames, `scores` are of another number, `fps` or `size` is out
            of range, or as of `check_film`.
        OSError: If the disk fails.
    """
    path = check_film(path)
    if len(frames) == 0:
        raise InputError("frames: got none, want at least one")
    if scores is not None and len(scores) != len(frames):
        raise InputError(f"scores: got {len(scores)}, want one for each of {len(frames)} frames")
    if not 1 <= fps <= 50:
        raise InputError(f"fps: got {fps}, want 1 to 50")
    if not 240 <= size <= 1920 or size % 2:
        raise InputError(f"size: got {size}, want an even number of pixels, 240 to 1920")
    film = _Film(_stack(frames, scene.map_size), scene, title, outcome, scores, ranges)
    pictures = _pictures(film, size)
    with replacing(path) as partial:
        _WRITERS[path.suffix.lower()](partial, pictures, len(frames), fps)
    return path


def check_film(out: str | Path) -> Path:
    """The path of a film that can be written; writing it makes missing parent folders.

    Raises:
        InputError: If the name ends in neither .gif nor .mp4, the packages for .mp4 are missing, or
            the file cannot be written.
    """
    path = check_target("out", out, tuple(_WRITERS))
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401  (imageio finds it by itself)
        except ImportError as error:
            remedy = "pip install 'dm2[video]', or a name that ends in .gif"
            raise InputError(f"out: an .mp4 needs the video packages: {remedy}") from error
    return path


def _stack(frames: Sequence[Frame], map_size: _Point) -> Frame:
    """Stacks along a new first axis; the dead stay where they died, and nothing leaves the map."""
    fields = zip(*frames, strict=True)
    battle = Frame(*(np.stack([np.asarray(x) for x in field]) for field in fields))
    position = np.clip(battle.position, 0, map_size)
    for t in range(1, len(frames)):
        long_dead = ~battle.alive[t - 1] & ~battle.alive[t]
        position[t, long_dead] = position[t - 1, long_dead]
    return battle._replace(position=position)


def _shots(battle: Frame, t: int) -> list[tuple[int, int]]:
    """Shooter and target of each shot of step `t`: both lived before it, either may have died."""
    alive = battle.alive[max(t - 1, 0)]
    pairs = [(u, v) for u, v in enumerate(battle.target[t].tolist()) if v >= 0]
    return [(u, v) for u, v in pairs if alive[u] and alive[v]]


@dataclass(frozen=True)
class _View:
    """The window on the map that the film shows, right below the header."""

    corner: _Point  # map position of its lower left
    scale: _Number  # points per map unit
    bottom: _Number  # its lower edge, in points

    def point(self, position: _Point | np.ndarray) -> _Point:
        """Where a map position is, in points."""
        x, y = (float(p) - c for p, c in zip(position, self.corner, strict=True))
        return x * self.scale, self.bottom - y * self.scale


def _view(battle: Frame, map_size: _Point) -> _View:
    """The smallest window of the map's shape, at least half its sides, with the whole battle."""
    full = np.array(map_size) + 2 * _WALL
    low, high = battle.position.min(axis=(0, 1)), battle.position.max(axis=(0, 1))
    span = full * np.clip(np.max((high - low + 2 * _MARGIN) / full), 0.5, 1.0)
    left, lower = np.clip((low + high - span) / 2, -_WALL, full - _WALL - span).tolist()
    height = _WIDTH * float(full[1] / full[0])
    return _View((left, lower), _WIDTH / float(span[0]), _HEADER + height)


@dataclass(frozen=True)
class _Pen:
    """Draws on a canvas; every length is in points."""

    draw: ImageDraw.ImageDraw
    unit: _Number  # canvas pixels per point

    def box(self, start: _Point, end: _Point, fill: _Colour) -> None:
        """Fills a rectangle from its upper left to its lower right."""
        left, top, right, bottom = (v * self.unit for v in (*start, *end))
        # Pillow's far corner is inclusive.
        self.draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill)

    def line(self, start: _Point, end: _Point, colour: _Colour, width: _Number) -> None:
        points = (np.array((start, end)) * self.unit).ravel().tolist()
        self.draw.line(points, colour, round(width * self.unit))

    def circle(self, at: _Point, radius: _Number, fill: _Colour | None, outline: _Colour) -> None:
        x, y = (v * self.unit for v in at)
        self.draw.circle((x, y), radius * self.unit, fill, outline, round(self.unit))

    def text(
        self,
        at: _Point,
        text: str,
        height: _Number,
        anchor: str,
        colour: _Colour = _TEXT,
        width: _Number = _WIDTH,
    ) -> float:
        """Write, shortened to `width`; returns the width. A dark rim keeps it readable."""
        font, text = _font(round(height * self.unit)), " ".join(text.split())
        while font.getlength(text) > width * self.unit and len(text) > 1:
            text = text[:-2] + "…"
        at, rim = (at[0] * self.unit, at[1] * self.unit), round(0.75 * self.unit)
        self.draw.text(at, text, colour, font, anchor, stroke_width=rim, stroke_fill=_VOID)
        return font.getlength(text) / self.unit


@cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    # The one that comes with matplotlib, so that films are alike on every machine.
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    return ImageFont.truetype(path, pixels)


@dataclass(frozen=True)
class _Film:
    """All that a film shows; `battle` has the frames along its first axis."""

    battle: Frame
    scene: Renderable
    title: str
    outcome: str | None
    scores: Sequence[float] | None
    ranges: bool


def _pictures(film: _Film, size: int) -> Iterator[Image.Image]:
    """Draws the frames, one RGB picture each."""
    battle, scene, outcome = film.battle, film.scene, film.outcome
    view = _view(battle, scene.map_size)
    unit = _SUPERSAMPLING * size / _WIDTH
    # H.264 wants even sides, so the film's height is made even.
    height = 2 * round((view.bottom + _FOOTER) * size / _WIDTH / 2)
    canvas = Image.new("RGB", (_SUPERSAMPLING * size, _SUPERSAMPLING * height), _VOID)
    _draw_map(_Pen(ImageDraw.Draw(canvas), unit), view, scene.map_size)
    letters = _letters(scene.unit_names, scene.unit_radii)
    kinds = sorted(set(battle.kind.ravel().tolist()))
    legend = " · ".join(f"{letters[k]} {scene.unit_names[k]}" for k in kinds)
    for t in range(len(battle.alive)):
        picture = canvas.copy()
        pen = _Pen(ImageDraw.Draw(picture), unit)
        if film.ranges:
            _draw_ranges(pen, view, battle, scene, t)
        _draw_units(pen, view, battle, scene, t)
        _draw_header(pen, film, t)
        pen.text((_WIDTH / 2, view.bottom + _FOOTER / 2), legend, 11, "mm", _GREY, _WIDTH - 20)
        if outcome and t == len(battle.alive) - 1:
            _draw_outcome(pen, view, np.asarray(battle.position[t]), outcome)
        yield picture.reduce(_SUPERSAMPLING)


def _letters(names: Sequence[str], radii: Sequence[_Number]) -> list[str]:
    """One letter per kind: of two with the same initial, the larger has the capital."""
    letters = [""] * len(names)
    for k in sorted(range(len(names)), key=lambda k: -radii[k]):
        choices = (names[k][0].upper(), names[k][0].lower(), *names[k][1:].upper())
        letters[k] = next((c for c in choices if c not in letters), "?")
    return letters


def _draw_map(pen: _Pen, view: _View, map_size: _Point) -> None:
    """The ground with its edge, and a grid of four map units."""
    columns, rows = map_size
    (left, top), (right, bottom) = view.point((0, rows)), view.point((columns, 0))
    pen.box((left - 1.5, top - 1.5), (right + 1.5, bottom + 1.5), _EDGE)
    pen.box((left, top), (right, bottom), _GROUND)
    for x in np.arange(4, columns, 4):
        pen.line(view.point((x, 0)), view.point((x, rows)), _GRID, 1)
    for y in np.arange(4, rows, 4):
        pen.line(view.point((0, y)), view.point((columns, y)), _GRID, 1)
    pen.box((0, view.bottom), (_WIDTH, view.bottom + 2 * _FOOTER), _VOID)


def _draw_units(pen: _Pen, view: _View, battle: Frame, scene: Renderable, t: int) -> None:
    """Crosses, then shots, then bodies, then bars: what matters most is drawn last."""
    letters = _letters(scene.unit_names, scene.unit_radii)
    kinds = battle.kind[t].tolist()
    points = [view.point(p) for p in battle.position[t]]
    # On a wide view a small unit is drawn larger than it is, so that its letter can be read.
    radii = [max(scene.unit_radii[k] * view.scale, 8.0) for k in kinds]
    living = np.flatnonzero(battle.alive[t]).tolist()
    shielded = np.any(np.asarray(battle.shield) > 0, axis=0)
    for u in np.flatnonzero(~battle.alive[t]).tolist():
        _draw_cross(pen, points[u], 0.6 * radii[u])
    for shooter, target in _shots(battle, t):
        glow = _GLOW[int(shooter >= scene.num_allies)]
        _draw_shot(pen, points[shooter], points[target], radii[target], glow)
    for u in living:
        team = int(u >= scene.num_allies)
        pen.circle(points[u], radii[u], _BODY[team], _GLOW[team])
        pen.text(points[u], letters[kinds[u]], 1.15 * radii[u], "mm")
    for u in living:
        health, shield = (float(np.clip(v[t, u], 0, 1)) for v in (battle.health, battle.shield))
        _draw_bar(pen, points[u], radii[u], 5.5, health, _LOW if health < 1 / 3 else _TEXT)
        if shielded[u]:
            _draw_bar(pen, points[u], radii[u], 9, shield, _SHIELD)
        if u < scene.num_allies:
            corner = (points[u][0] + 0.7 * radii[u], points[u][1] + 0.8 * radii[u])
            pen.text(corner, str(u), 9, "lm")


def _draw_cross(pen: _Pen, at: _Point, arm: _Number) -> None:
    for slope in (-arm, arm):
        pen.line((at[0] - arm, at[1] - slope), (at[0] + arm, at[1] + slope), _GREY, 2)


def _draw_shot(pen: _Pen, start: _Point, end: _Point, radius: _Number, colour: _Colour) -> None:
    """A line, and a ring round the target. It keeps left, so that two who duel show two lines."""
    x, y = end[0] - start[0], end[1] - start[1]
    norm = max(math.hypot(x, y), 1.0)
    left = (1.5 * y / norm, -1.5 * x / norm)
    ends = [(at[0] + left[0], at[1] + left[1]) for at in (start, end)]
    pen.line(ends[0], ends[1], colour, 2)
    pen.circle(end, radius + 2.5, None, colour)


def _draw_ranges(pen: _Pen, view: _View, battle: Frame, scene: Renderable, t: int) -> None:
    for u in np.flatnonzero(battle.alive[t]).tolist():
        radius = scene.unit_ranges[int(battle.kind[t, u])] * view.scale
        at = view.point(np.asarray(battle.position[t, u]))
        pen.circle(at, radius, None, _BODY[u >= scene.num_allies])


def _draw_bar(
    pen: _Pen, at: _Point, radius: _Number, above: _Number, share: float, colour: _Colour
) -> None:
    """A bar as wide as the unit, filled to `share`, its upper edge `above` the unit's."""
    left, right, top = at[0] - radius, at[0] + radius, at[1] - radius - above
    end = left + share * (right - left)
    pen.box((left - 1, top - 1), (right + 1, top + 3.5), _VOID)
    pen.box((left, top), (right, top + 2.5), _EDGE)
    pen.box((left, top), (end, top + 2.5), colour)


def _draw_header(pen: _Pen, film: _Film, step: int) -> None:
    """Title, time, who is alive, and the score."""
    alive, num_allies = np.asarray(film.battle.alive[step]), film.scene.num_allies
    pen.box((0, 0), (_WIDTH, _HEADER), _VOID)
    pen.text((10, 16), film.title, 14, "lm", width=_WIDTH - 150)
    time = f"step {step} · {step * film.scene.step_seconds:.1f} s"
    pen.text((_WIDTH - 10, 16), time, 12, "rm")
    if film.scores is not None:
        pen.text((_WIDTH - 10, 36), f"return {film.scores[step]:.2f}", 12, "rm")
    x = 10.0
    sides = (("allies", alive[:num_allies]), ("enemies", alive[num_allies:]))
    for team, (name, members) in enumerate(sides):
        pen.circle((x + 5, 36), 5, _BODY[team], _GLOW[team])
        x += 36 + pen.text((x + 15, 36), f"{name} {members.sum()}/{members.size}", 12, "lm")


def _draw_outcome(pen: _Pen, view: _View, position: Float[np.ndarray, "U 2"], outcome: str) -> None:
    """A band at the top or the bottom of the map, whichever is farther from the battle."""
    middle = np.mean([view.point(p)[1] for p in position])
    y = _HEADER + 20 if middle > (_HEADER + view.bottom) / 2 else view.bottom - 20
    pen.box((0, y - 22), (_WIDTH, y + 22), _EDGE)
    pen.box((0, y - 20.5), (_WIDTH, y + 20.5), _VOID)
    pen.text((_WIDTH / 2, y), outcome, 22, "mm", width=_WIDTH - 40)


def _write_gif(path: Path, pictures: Iterator[Image.Image], count: int, fps: int) -> None:
    """Writes with one palette for all films, so that nothing flickers and little changes.

    A pixel is the mean of four, so where two colours meet it is one of five blends.
    """
    blends = [np.linspace(a, b, 5) for a, b in combinations(_COLOURS, 2)]
    colours = np.unique(np.concatenate(blends).round().astype(np.uint8), axis=0)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.tobytes())
    first, *rest = (p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures)
    times = [round(1000 / fps)] * (count - 1) + [round(1000 * _HOLD_SECONDS)]
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0)


def _write_mp4(path: Path, pictures: Iterator[Image.Image], count: int, fps: int) -> None:
    import imageio.v2

    with imageio.v2.get_writer(path, fps=fps, codec="libx264", macro_block_size=2) as film:
        for t, picture in enumerate(pictures):
            for _ in range(1 if t < count - 1 else max(1, round(_HOLD_SECONDS * fps))):
                film.append_data(np.asarray(picture))  # pyright: ignore[reportAttributeAccessIssue]


_WRITERS = {".gif": _write_gif, ".mp4": _write_mp4}

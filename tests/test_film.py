"""Films: what is in the picture, at pixels worked out by hand.

The scene's map is 30 x 30, plus a wall of one unit on each side: 32 units on 480 pixels when a
battle spans it, so 15 pixels per unit. The header takes 48 rows, so the map's lower edge is row
528, and the point (x, y) of the map is at column (x + 1) * 15 and row 528 - (y + 1) * 15.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from dm2.envs.base import Frame
from dm2.errors import InputError
from dm2.run import film as films
from dm2.run.film import render

SHOOTER, VICTIM = (120, 408), (210, 408)  # unit 0 at (7, 7) and unit 2 at (13, 7)
RADIUS = 15  # of both: 1 map unit


@dataclass
class Scene:
    map_size: tuple[float, float] = (30.0, 30.0)
    num_allies: int = 2
    unit_names: tuple[str, ...] = ("marine", "marauder")
    unit_radii: tuple[float, ...] = (1.0, 1.5)
    unit_ranges: tuple[float, ...] = (4.0, 5.0)
    step_seconds: float = 0.5

    def frame(self, state: Any) -> Frame:
        return state


def frame(**changes: Any) -> Frame:
    """Allies 0 and 1, enemies 2 and 3; units 1 and 3 stand at the walls and so span the map."""
    start = Frame(
        position=np.array([[7, 7], [0, 15], [13, 7], [30, 15]], float),
        health=np.ones(4),
        shield=np.zeros(4),
        alive=np.ones(4, bool),
        target=np.full(4, -1),
        kind=np.zeros(4, int),
    )
    return start._replace(**{name: np.asarray(value) for name, value in changes.items()})


def battle() -> list[Frame]:
    """Unit 0 hits unit 2, then kills it; in the last frame the dead unit has odd leftovers."""
    dead = {"alive": [True, True, False, True], "health": [1, 1, 0, 1]}
    moved = [[7, 7], [0, 15], [20, 20], [30, 15]]
    return [
        frame(),
        frame(target=[2, -1, -1, -1], health=[1, 1, 0.25, 1]),
        frame(target=[2, -1, -1, -1], **dead),
        frame(target=[-1, -1, 0, -1], position=moved, **dead),
    ]


def film(path: Path, frames: list[Frame], scene: Scene | None = None, **options: Any) -> np.ndarray:
    """Render a GIF and read it back: `T H W 3`, as signed numbers."""
    options = {"title": "a battle", "outcome": None, **options}
    assert render(frames, scene or Scene(), path, **options) == path
    with Image.open(path) as image:
        assert isinstance(image, GifImageFile)
        pictures = []
        for t in range(image.n_frames):
            image.seek(t)
            pictures.append(np.asarray(image.convert("RGB"), int))
    return np.stack(pictures)


def blue(pixel: np.ndarray) -> bool:
    return pixel[2] > pixel[0] + 80


def red(pixel: np.ndarray) -> bool:
    return pixel[0] > pixel[2] + 80


def grey(pixel: np.ndarray) -> bool:
    return np.ptp(pixel) < 30 and 100 < pixel.mean() < 170


def below_letter(pictures: np.ndarray, t: int, unit: tuple[int, int]) -> np.ndarray:
    return pictures[t, unit[1] + RADIUS - 3, unit[0]]


def test_frames_size_and_times(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    assert film(path, battle(), fps=10).shape == (4, 48 + 480 + 24, 480, 3)
    with Image.open(path) as image:
        times = []
        for t in range(4):
            image.seek(t)
            times.append(image.info["duration"])
        assert image.info["loop"] == 0
    assert times == [100, 100, 100, 1500]  # 1 s / 10, and 1.5 s for the last


def test_height_follows_from_the_map(tmp_path: Path) -> None:
    """With its walls this map is 64 x 32: half as high as wide."""
    pictures = film(tmp_path / "film.gif", [frame()], Scene(map_size=(62.0, 30.0)), size=240)
    assert pictures.shape == (1, 24 + 120 + 12, 240, 3)


def test_living_units_have_the_colour_of_their_side(tmp_path: Path) -> None:
    pictures = film(tmp_path / "film.gif", battle())
    assert all(blue(below_letter(pictures, t, SHOOTER)) for t in range(4))
    assert all(red(below_letter(pictures, t, VICTIM)) for t in (0, 1))


def test_units_have_their_true_radius(tmp_path: Path) -> None:
    """Straight below the centre nothing but the body is drawn."""
    pictures = film(tmp_path / "film.gif", [frame(kind=[1, 0, 0, 0])])
    x, y = VICTIM
    assert red(pictures[0, y + 13, x]) and not red(pictures[0, y + 17, x])
    x, y = SHOOTER  # 1.5 units are 22.5 pixels
    assert blue(pictures[0, y + 20, x]) and not blue(pictures[0, y + 25, x])


def test_the_dead_are_grey_crosses_where_they_died(tmp_path: Path) -> None:
    pictures = film(tmp_path / "film.gif", battle())
    x, y = VICTIM
    for t in (2, 3):
        assert grey(pictures[t, y, x])
        assert not red(below_letter(pictures, t, VICTIM))
        # Arms of 0.6 radii, along both diagonals: 6 pixels out is on them, 6 pixels right is not.
        assert all(grey(pictures[t, y + dy, x + dx]) for dx in (-6, 6) for dy in (-6, 6))
        assert not grey(pictures[t, y, x + 6])
    moved_to = pictures[3, 528 - 21 * 15, 21 * 15]
    assert not grey(moved_to) and not red(moved_to)


def test_shots_are_lines_on_the_step_they_are_fired(tmp_path: Path) -> None:
    pictures = film(tmp_path / "film.gif", battle())
    halfway = pictures[:, 404:410, 165]  # the line keeps 1.5 pixels to its left, here upwards
    brightest = [column[column.sum(1).argmax()] for column in halfway]
    assert blue(brightest[1]) and blue(brightest[2])  # the hit, and the hit that killed
    # Nobody shoots at first; at last the dead still carries a target, which is no shot.
    assert (halfway[0] == halfway[3]).all() and not blue(brightest[0])


def test_who_duels_gets_two_lines(tmp_path: Path) -> None:
    pictures = film(tmp_path / "film.gif", [frame(target=[2, -1, 0, -1])])
    column = pictures[0, 404:412, 165]
    assert any(blue(p) for p in column[:4]) and any(red(p) for p in column[4:])


def test_health_bar(tmp_path: Path) -> None:
    """The bar is as wide as the unit, 5.5 pixels above it; a third and less turns it yellow."""
    pictures = film(tmp_path / "film.gif", battle())
    row = VICTIM[1] - RADIUS - 5 + 1
    full, hurt = (pictures[t, row, VICTIM[0] - RADIUS : VICTIM[0] + RADIUS] for t in (0, 1))
    assert (full[2:-2].min(1) > 200).all()
    assert (hurt[2:6, :2].min(1) > 150).all() and (hurt[2:6, 2] < 120).all()
    assert (hurt[10:-2].max(1) < 150).all()  # 0.25 of 30 pixels are 7.5


def test_shield_bar_of_units_that_ever_have_one(tmp_path: Path) -> None:
    """Above the health bar, its upper edge 9 pixels above the unit."""
    frames = [frame(shield=[0.5, 0, 0, 0]), frame()]
    pictures = film(tmp_path / "film.gif", frames)
    row = SHOOTER[1] - RADIUS - 9 + 1
    half, none = (pictures[t, row, SHOOTER[0] - RADIUS : SHOOTER[0] + RADIUS] for t in (0, 1))
    assert (half[2:13, 1:].min(1) > 180).all() and (half[17:-2].max(1) < 150).all()
    # Without a shield an empty bar is left; a unit that never had one has no bar.
    assert (none[2:-2] == none[2]).all() and (none[2] == half[-3]).all()
    bare = pictures[0, row, VICTIM[0] - RADIUS : VICTIM[0] + RADIUS]
    assert not (bare[2:-2] == none[2]).all()


def test_ranges_on_demand(tmp_path: Path) -> None:
    """Unit 0 shoots 4 map units far, 60 pixels."""
    dead = {"alive": [True, True, False, True]}
    frames = [frame(), frame(**dead)]
    without = film(tmp_path / "without.gif", frames)
    pictures = film(tmp_path / "with.gif", frames, ranges=True)
    x, y = SHOOTER
    assert blue(pictures[0, y + 58 : y + 62, x].max(0)) and not blue(pictures[0, y + 50, x])
    assert not blue(without[0, y + 58 : y + 62, x].max(0))
    x, y = VICTIM
    circle = pictures[:, y + 58 : y + 62, x].max(1)
    assert circle[0, 0] > circle[0, 2] + 50
    assert circle[1, 0] < circle[1, 2] + 20  # the dead shoot nobody


def test_header_counts_and_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    text = films._Pen.text

    def record(pen: Any, at: Any, words: str, *args: Any, **options: Any) -> float:
        written.append(words)
        return text(pen, at, words, *args, **options)

    monkeypatch.setattr(films._Pen, "text", record)
    scores = [0.0, 0.5, 1.25, 1.25]
    film(tmp_path / "film.gif", battle(), title="5 vs 6", outcome="won", scores=scores)
    assert [w for w in written if "return" in w] == [f"return {score:.2f}" for score in scores]
    per_frame = [
        {"5 vs 6", f"step {t} · {t / 2:.1f} s", "allies 2/2", "m marine"} for t in range(4)
    ]
    assert all(expected <= set(written) for expected in per_frame)
    assert [w for w in written if "enemies" in w] == ["enemies 2/2"] * 2 + ["enemies 1/2"] * 2
    assert written[-1] == "won" and written.count("won") == 1
    # Units show their letter, and allies alone their index.
    assert written.count("m") == 4 + 4 + 3 + 3
    assert [written.count(index) for index in "0123"] == [4, 4, 0, 0]


def test_outcome_is_on_the_last_frame_alone(tmp_path: Path) -> None:
    without = film(tmp_path / "without.gif", battle())
    with_outcome = film(tmp_path / "with.gif", battle(), outcome="won")
    changed = (without != with_outcome).any(-1)
    assert not changed[:3].any()
    rows = np.flatnonzero(changed[3].any(1))
    assert rows.size and (with_outcome[3, rows[0] : rows[-1], 200:280].min(-1) > 200).any()


@pytest.mark.parametrize(("height", "first", "last"), [(7, 45, 96), (23, 480, 530)])
def test_outcome_keeps_off_the_battle(tmp_path: Path, height: int, first: int, last: int) -> None:
    """The map's rows are 48 to 528; a battle low on it has the band at the top, and vice versa."""
    frames = [frame(position=[[7, height], [0, 15], [13, height], [30, 15]])]
    without = film(tmp_path / "without.gif", frames)
    with_outcome = film(tmp_path / "with.gif", frames, outcome="won")
    rows = np.flatnonzero((without != with_outcome).any((0, 2, 3)))
    assert first <= rows.min() and rows.max() < last


def test_camera_moves_in_on_a_small_battle(tmp_path: Path) -> None:
    """Half the map at least: 16 units on 480 pixels, so twice the length and 4 times the area."""
    near = [[12, 12], [12, 18], [18, 12], [18, 18]]
    far = [[3, 3], [3, 27], [27, 3], [27, 27]]  # 24 + 2 * 1.5 = 27 of 32 units

    def area(name: str, position: list[list[int]]) -> int:
        field = film(tmp_path / name, [frame(position=position)])[0, 48:528]
        return int((field[..., 0] > field[..., 2] + 80).sum())

    ratio = area("near.gif", near) / area("far.gif", far)
    assert ratio == pytest.approx((27 / 16) ** 2, rel=0.15)  # letters and bars do not scale


def test_units_beyond_the_map_are_drawn_at_its_edge(tmp_path: Path) -> None:
    outside = [[7, 7], [0, 15], [13, -9], [30, 15]]
    pictures = film(tmp_path / "film.gif", [frame(position=outside)])
    assert red(pictures[0, 528 - 15 + RADIUS - 3, 14 * 15])


def test_letters_are_those_of_smax() -> None:
    names = ("marine", "marauder", "stalker", "zealot", "zergling", "hydralisk")
    radii = (0.375, 0.5625, 0.625, 0.5, 0.375, 0.625)
    assert films._letters(names, radii) == ["m", "M", "S", "Z", "z", "H"]
    assert films._letters(("aa", "ab", "ac"), (1, 1, 1)) == ["A", "a", "C"]


def test_long_titles_and_outcomes_fit(tmp_path: Path) -> None:
    pictures = film(tmp_path / "film.gif", [frame()], title="word " * 50, outcome="x" * 200)
    assert (pictures[0, 8:24, 342:375].max(-1) < 60).all()  # free, before the step
    assert (pictures[0, 50:86, :15].max(-1) < 60).all()


def test_equal_arguments_give_equal_small_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    position = rng.uniform(0, 30, (1, 20, 2)) + rng.normal(0, 0.5, (60, 20, 2)).cumsum(0)
    frames = [
        Frame(
            p,
            *rng.uniform(0, 1, (2, 20)),
            alive=rng.random(20) < 0.9,
            target=rng.integers(-1, 20, 20),
            kind=kind,
        )
        for p, kind in zip(position, rng.integers(0, 2, (60, 20)), strict=True)
    ]
    paths = [tmp_path / "a.gif", tmp_path / "new" / "folder" / "b.gif"]
    for path in paths:
        render(frames, Scene(num_allies=10), path, title="many", outcome="draw")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size < 1_500_000


def test_a_failure_leaves_the_old_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.gif"
    path.write_bytes(b"old")

    def fail(partial: Path, *_: Any) -> None:
        partial.write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setitem(films._WRITERS, ".gif", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        render(battle(), Scene(), path, title="", outcome=None)
    assert [p.name for p in tmp_path.iterdir()] == ["film.gif"]
    assert path.read_bytes() == b"old"


def test_mp4(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    path = render(battle(), Scene(), tmp_path / "film.MP4", title="a battle", outcome="won", fps=4)
    # Decoded by the program itself: imageio's reader leaves files open, which is a warning here.
    command = [ffmpeg, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    assert b"480x552" in decoded.stderr and b" 4 fps" in decoded.stderr
    pictures = np.frombuffer(decoded.stdout, np.uint8).astype(int).reshape(-1, 552, 480, 3)
    assert len(pictures) == 3 + 6  # the last is held for 1.5 s: 6 pictures
    assert blue(below_letter(pictures, 0, SHOOTER)) and red(below_letter(pictures, 0, VICTIM))
    assert [p.name for p in tmp_path.iterdir()] == ["film.MP4"]


def test_mp4_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(InputError, match=r"pip install 'dm2\[video\]'"):
        render(battle(), Scene(), tmp_path / "film.mp4", title="", outcome=None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("film.webm", {}, r"out = .*film\.webm.*must end in \.gif, \.mp4"),
        ("film", {}, r"must end in \.gif, \.mp4"),
        ("film.gif", {"frames": []}, "frames: got none"),
        ("film.gif", {"fps": 0}, "fps: got 0"),
        ("film.gif", {"scores": [0.0]}, "scores: got 1, want one for each of 4"),
        ("film.gif", {"fps": 51}, "fps: got 51"),
        ("film.gif", {"size": 238}, "size: got 238"),
        ("film.gif", {"size": 481}, "size: got 481"),
        ("taken/film.gif", {}, "out = .*cannot be written: "),
    ],
)
def test_bad_input(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "taken").touch()
    options = {"frames": battle(), "title": "", "outcome": None, **options}
    with pytest.raises(InputError, match=message):
        render(options.pop("frames"), Scene(), tmp_path / name, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]

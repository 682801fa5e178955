"""The report of studies: one file, its numbers by hand, and how a browser shows it."""

import dataclasses
import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dm2
from dm2.errors import InputError
from dm2.studies import drawings
from dm2.studies.products import Exchange, Training, training
from dm2.studies.records import Records
from dm2.studies.report import write_report
from dm2.studies.runs import Run
from dm2.studies.study import Claim, Curve, Study
from dm2.studies.verdicts import Result, results_of

ENV, OTHER = "smax/3s_vs_3z", "smax/3s_vs_4z"
HALF = (0.0, 0.0, 0.3, 0.6, 0.6)  # smoothed: 0, 0.1, 0.3, 0.5, 0.6; area 1.2 / 4
RISING = (0.0, 0.6, 0.9, 0.9, 0.9)  # smoothed: 0.3, 0.5, 0.8, 0.9, 0.9; area 2.85 / 4
EVERY = 100_000
NASTY = '<script>alert("label")</script>'


def flat(*rates: float) -> list[tuple[float, ...]]:
    """Seeds whose curves are level, so that their areas are these rates."""
    return [(rate,) * 5 for rate in rates]


class Made:
    """A study and its records, curve by curve."""

    def __init__(self) -> None:
        self.curves: list[Curve] = []
        self.records = Records()

    def add(self, label, seeds, env=ENV, level=None, demos=None, known=True) -> Curve:
        """A curve with a win rate curve for each seed; without `known`, its runs are missing."""
        ppo = dm2.PPO(clip=0.1 + 0.01 * len(self.curves))  # so that curves share no run
        runs = tuple(
            training(dm2.IPPO(ppo), env, steps=(len(rates) - 1) * EVERY, seed=seed)
            for seed, rates in enumerate(seeds)
        )
        curve = Curve(label, runs, level=level)
        self.curves.append(curve)
        for run, rates in zip(runs, seeds, strict=True):
            if known:
                self.records.runs[run.name] = made_up(run, rates, demos)
        return curve

    def result(self, *claims: Claim, name: str = "tiny", **more: Any) -> Result:
        title, question = f"The {name} study", "What is there to see?"
        study = Study(name, title, question, tuple(self.curves), claims, **more)
        return results_of(study, self.records)


def made_up(run: Training, rates, demos: float | None) -> Run:
    info: dict[str, Any] = {"dm2_version": "0.1.0", "jax": "0.9.2", "commit": "c0ffee"}
    info["config"] = run.config.to_dict()
    if demos is not None:
        info["demonstrations"] = {"sha256": "a" * 64, "win_rate": demos}
    steps = EVERY * np.arange(len(rates), dtype=float)
    return Run(Path("somewhere") / run.name, info, steps, np.array(rates), np.array(rates))


def pair(better, than) -> Made:
    made = Made()
    made.add("one", better)
    made.add("two", than)
    return made


class Page(HTMLParser):
    """What a test looks at: links, scripts' number, the text outside of scripts, and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts = 0
        self.words = ""
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._hidden = self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.scripts += tag == "script"
        self._hidden |= tag in ("script", "style")
        if tag == "table":
            self.tables.append((values.get("class") or "", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self._in_cell = True
        elif tag == "small" and self._in_cell:
            self.tables[-1][1][-1][-1] += "|"

    def handle_endtag(self, tag) -> None:
        self._hidden &= tag not in ("script", "style")
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data) -> None:
        if not self._hidden:
            self.words += data
        if self._in_cell:
            self.tables[-1][1][-1][-1] += data

    def rows(self, kind: str, number: int = 0) -> list[list[str]]:
        """The cells of a table, without its header."""
        return [rows for name, rows in self.tables if name == kind][number][1:]


@pytest.fixture
def write(tmp_path):
    """Writes a report, returns its text."""

    def report(*results: Result, commands=None) -> str:
        out = write_report(
            results, tmp_path / "report.html", scale="quick", commands=commands or {}
        )
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
        return out.read_text()

    return report


def figure(text: str, identifier: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The traces and the layout that are handed to plotly."""
    _, _, rest = text.partition(f'Plotly.newPlot("{identifier}",'.replace("(", "(" + 24 * " "))
    decoder = json.JSONDecoder()
    data, end = decoder.raw_decode(rest.lstrip())
    layout, _ = decoder.raw_decode(rest.lstrip()[end:].lstrip(" ,"))
    return data, layout


# ---- the file


def test_it_is_one_file_that_loads_nothing(write):
    text = write(pair([RISING], [HALF]).result(Claim("It is.", "one", "two")))
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.links and all(link.startswith(("#", "data:")) for link in page.links)
    assert "@import" not in text.partition("<script>")[0] and "default-src 'none'" in text
    assert text.count("plotly.js v") == 1  # its JavaScript, once


def test_the_same_results_give_the_same_bytes(write):
    def results() -> list[Result]:
        made = pair([RISING, HALF], flat(0.2, 0.3))
        return [made.result(Claim("It is.", "one", "two"), name=name) for name in ("a", "b")]

    assert write(*results()) == write(*results())


def test_texts_are_shown_as_they_are(write):
    made = Made()
    made.add(NASTY, [RISING])
    made.add("two", [HALF])
    clean = write(pair([RISING], [HALF]).result(Claim("It is.", "one", "two")))
    claim = Claim(f"{NASTY} & more", NASTY, "two", source=NASTY)
    result = made.result(claim)
    result = dataclasses.replace(result, study=dataclasses.replace(result.study, title=NASTY))
    text = write(result, commands={"tiny": f"dm2 {NASTY}"})
    page = Page(text)
    assert page.scripts == Page(clean).scripts and NASTY not in text
    assert page.rows("numbers")[0][0] == NASTY
    assert f"dm2 {NASTY}" in page.words and "amp;" not in page.words
    # Plotly takes tags for formatting, so they are escaped for it as well.
    (line, _), _ = figure(text, "study-tiny-curves")
    assert line["name"] == '&lt;script&gt;alert("label")&lt;/script&gt;'


@pytest.mark.parametrize("name", ["report", "report.htm", "report.pdf"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}'.*must end in \.html"):
        write_report([], tmp_path / name, scale="quick", commands={})


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_missing_packages_are_named_before_anything_is_written(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'dm2\[report\]'"):
        write_report([], tmp_path / "report.html", scale="quick", commands={})
    assert not list(tmp_path.iterdir())


def test_no_studies_and_no_claims_are_said(write):
    assert "There are no claims." in Page(write()).words


# ---- claims

HOLDS = Claim("It leads.", "high", "low", source="Figure 2")
OPEN = Claim("It leads by a little.", "high", "wide")
FAILS = Claim("It trails.", "low", "high", "final", source="Figure 3")


def three_outcomes() -> Result:
    made = Made()
    made.add("high", flat(0.9, 0.8, 0.7))
    made.add("low", flat(0.1, 0.2, 0.3))
    made.add("wide", flat(0.1, 0.8, 1.0))
    return made.result(HOLDS, OPEN, FAILS)


def test_what_fails_comes_first_and_every_verdict_is_a_word(write):
    made = pair(flat(0.5, 0.5), flat(0.1, 0.1))
    # Without spread, the interval is the difference.
    more = made.result(Claim("A second study.", "two", "one"), name="second")
    page = Page(write(three_outcomes(), more))
    rows = page.rows("claims")
    assert [row[0] for row in rows] == ["tiny", "second", "tiny", "tiny"]
    assert [row[-1] for row in rows] == ["does not hold", "does not hold", "not decided", "holds"]
    assert [row[2] for row in rows] == ["Figure 3", "—", "—", "Figure 2"]
    # The study's own come again below it, without its name.
    assert page.rows("claims", 1) == [row[1:] for row in rows if row[0] == "tiny"]
    assert page.rows("claims", 2) == [rows[1][1:]]


def test_a_verdict_in_numbers(write):
    row = Page(write(three_outcomes())).rows("claims")[-1]
    # Means 0.8 and 0.2, variances 0.01: the standard error is sqrt(2 * 0.01 / 3) = 0.08165, and t
    # at 4 degrees of freedom 2.7764, so 0.6 ± 0.2267.
    claim = "It leads.|high ahead of low; what matters: 0.05"
    value = "+0.600\n+0.373 to +0.827"
    words = "area under the test win rate"
    expected = ["tiny", claim, "Figure 2", ENV, words, value, "1.00", "3 and 3", "holds"]
    assert row == expected


def test_steps_are_compared_by_their_ratio(write):
    # Smoothed: 0.45, 0.6, 0.9: 80 % after 2 / 3 of the second stretch. RISING: after 200,000.
    fast = (0.0, 0.9, 0.9, 0.9, 0.9)
    made = pair([fast, fast], [RISING, RISING])
    made.add("never", [HALF, HALF])
    made.add("nor", [HALF, HALF])
    claims = (
        Claim("Faster.", "one", "two", "steps_to_80"),
        Claim("As fast.", "one", "never", "steps_to_80", "alike"),
        Claim("Slower.", "never", "one", "steps_to_80"),
        Claim("Neither.", "never", "nor", "steps_to_80"),
    )
    rows = {row[1].split("|")[0]: row for row in Page(write(made.result(*claims))).rows("claims")}
    assert rows["Faster."][4:7] == [
        "environment steps to a test win rate of 80 %",
        "× 0.833\n0.833 to 0.833",
        "1.00",
    ]
    assert rows["Faster."][1].endswith("|one ahead of two; what matters: 5 %")
    assert rows["As fast."][1].endswith("|one and never alike, to 5 %")
    # 166,667 over what is above 400,000, and the other way round.
    assert rows["As fast."][5] == "≤ × 0.417\n0.417 to 0.417"
    assert rows["As fast."][-1] == "not decided|2 of 2 runs of never never get there"
    assert rows["Slower."][5] == "≥ × 2.400\n2.400 to 2.400"
    assert rows["Neither."][5] == "—"


def test_claims_without_runs_are_listed_as_not_decided(write):
    made = pair([RISING] * 2, [HALF] * 2)
    made.add("one", [RISING], OTHER)
    made.add("two", [RISING], OTHER, known=False)
    made.add("alone", [RISING], OTHER)
    result = made.result(Claim("It leads.", "one", "two"))
    rows = Page(write(result)).rows("claims")
    assert [(row[3], row[-1]) for row in rows] == [
        (OTHER, "not decided|no runs yet"),
        (ENV, "holds"),
    ]
    said = f"Not finished: two in {OTHER}: 0 of 1 runs are finished."
    assert said in Page(write(result)).words


def test_one_seed_decides_nothing_and_has_no_interval(write):
    made = pair(flat(0.7), flat(0.3))
    row = Page(write(made.result(Claim("It leads.", "one", "two")))).rows("claims")[0]
    assert row[5:] == ["+0.400", "1.00", "1 and 1", "not decided"]


# ---- numbers, settings, notes


def test_the_numbers_of_a_curve(write):
    made = Made()
    made.add("one", [RISING, HALF])
    made.add("two", [HALF])
    page = Page(write(made.result()))
    assert page.rows("numbers") == [
        [
            "one",
            "2",
            "0.20\n0.10–0.30",  # 100,000 and 300,000
            "≥ 0.30\n0.20–0.40\n1 of 2",  # 200,000 and more than 400,000
            "0.51\n0.30–0.71",  # 0.7125 and 0.3
            "0.51",
            "0.48\n0.30–0.66",  # 3.3 / 5 and 1.5 / 5
        ],
        ["two", "1", "0.30", "—\n0 of 1", "0.30", "0.30", "0.30"],
    ]
    assert "Area: mean test win rate up to step 400,000." in page.words
    assert "from step 0 to 400,000" in page.words


def test_seeds_that_are_left_out_or_missing_are_counted(write):
    made = Made()
    curve = made.add("one", [RISING, RISING, RISING, RISING])
    del made.records.runs[curve.runs[3].name]
    late = made.records.runs[curve.runs[2].name]
    made.records.runs[curve.runs[2].name] = Run(
        late.path, late.info, late.steps[:3], late.win_rates[:3], late.returns[:3]
    )
    page = Page(write(made.result()))
    assert page.rows("numbers")[0][1] == "2 of 4"
    assert f"{curve.runs[2].name}: left out of all numbers" in page.words


def test_returns_are_called_returns(write):
    made = Made()
    curve = made.add("one", [(-40.0, -30.0, -20.0)])
    run = made.records.runs[curve.runs[0].name]
    run.info["environment"] = {"version": "1", "wins": False}
    text = write(made.result())
    page = Page(text)
    # (-35 - 25) / 2; all three evaluations count as final.
    assert page.rows("numbers") == [["one", "1", "-30.00", "-30.00", "-30.00"]]
    assert "final return" in page.words and "Area: mean test return" in page.words
    _, layout = figure(text, "study-tiny-curves")
    assert layout["yaxis"]["title"]["text"] == "test return" and "range" not in layout["yaxis"]


def test_settings_versions_and_command(write):
    made = pair([RISING, RISING], [HALF])
    page = Page(write(made.result(), commands={"tiny": "dm2 study run tiny"}))
    first, second = page.rows("settings")
    assert first[:6] == ["one", ENV, "ippo", "400,000", "0, 1", "—"]
    assert first[6] == "ppo.clip = 0.1" and second[6] == "ppo.clip = 0.11"
    assert "Made with dm2 0.1.0; JAX 0.9.2; commit c0ffee." in page.words
    assert "Made by dm2 study run tiny" in page.words


def test_demonstrations_are_described(write):
    from dm2.studies.products import Recording

    source = training(dm2.IPPO(), ENV, steps=1000, seed=100)
    demos = Recording((source,), at=500, episodes=20)
    runs = tuple(training(dm2.DM2(), ENV, steps=400_000, seed=n, demos=demos) for n in range(2))
    study = Study("tiny", "Tiny", "What?", (Curve("DM²", runs),))
    page = Page(write(results_of(study, Records())))
    assert page.rows("settings")[0][5] == "ippo, seed 100; at = 500; episodes = 20"
    assert page.rows("settings")[0][6] == "—"


def test_a_study_without_runs_says_so(write):
    made = Made()
    made.add("one", [RISING], known=False)
    made.add("two", [HALF], known=False)
    text = write(made.result(Claim("It leads.", "one", "two")))
    page = Page(text)
    assert "No run of this study has been evaluated yet." in page.words
    assert "Plotly.newPlot" not in text.partition("</head>")[2]
    assert page.rows("claims")[0][-1] == "not decided|no runs yet"
    assert len(page.rows("settings")) == 2 and "Made with" not in page.words


# ---- figures


def test_curves_are_means_with_their_standard_errors(write):
    made = Made()
    made.add("one", [(0.0, 0.2, 0.4), (0.2, 0.4, 0.8)], demos=0.75)
    made.add("two", [(0.1, 0.1, 0.1)])
    made.add("two", [(0.3, 0.3, 0.3)], OTHER)
    data, layout = figure(write(made.result()), "study-tiny-curves")
    band, line, alone, demonstrators, other = data
    assert line["x"] == [0, 100_000, 200_000]
    assert line["y"] == pytest.approx([0.1, 0.3, 0.6])
    # Of two seeds, half the difference.
    assert line["customdata"] == pytest.approx([0.1, 0.1, 0.2])
    assert band["x"] == [*line["x"], *line["x"][::-1]]
    assert band["y"] == pytest.approx([0.2, 0.4, 0.8, 0.4, 0.2, 0.0])
    assert demonstrators["line"]["dash"] == "dash" and set(demonstrators["y"]) == {0.75}
    assert demonstrators["line"]["color"] == line["line"]["color"]
    assert "one seed" in alone["hovertemplate"] and alone["line"] == other["line"]
    # One entry in the legend for a label, which stands for its curves in all panels.
    assert [trace["showlegend"] for trace in data] == [False, True, True, True, False]
    assert band["legendgroup"] == line["legendgroup"] == "one"
    titles = [note["text"] for note in layout["annotations"]]
    assert titles == [f"<b>{ENV}</b>", f"<b>{OTHER}</b>"]
    assert [trace["xaxis"] for trace in data] == ["x", "x", "x", "x", "x2"]


def levels(*places: float) -> Made:
    made = Made()
    made.add("none", flat(0.1, 0.3))
    for place in places:
        made.add(f"{place:g} episodes", flat(0.4, 0.6), level=place)
    return made


def test_levels_of_unlike_size_are_numbers_on_the_axis():
    drawn = drawings._levels(levels(1.0, 100.0).result(axis="episodes"))
    drawn.canvas.draw()
    labels = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert {"1", "10", "100"} <= set(labels) and "$" not in "".join(labels)


def test_an_axis_with_a_level_of_0_is_linear():
    drawn = drawings._levels(levels(0.0, 1.0, 100.0).result(axis="episodes"))
    assert drawn.axes[0].get_xscale() == "linear"


def test_levels_without_runs_leave_the_other_lines():
    made = Made()
    made.add("none", [HALF])
    made.add("1 episode", [HALF], level=1.0, known=False)
    drawn = drawings._levels(made.result(axis="episodes"))
    assert [line.get_label() for line in drawn.axes[0].lines] == ["none"]


def test_levels_of_returns_are_called_returns():
    made = levels(1.0, 2.0)
    for run in made.records.runs.values():
        run.info["environment"] = {"version": "1", "wins": False}
        run.returns[:] = -20.0
    axes = drawings._levels(made.result(axis="tenths")).axes[0]
    assert axes.get_ylabel() == "area under the test return" and axes.get_ylim()[0] < -20


def test_panels_of_exchanges_are_whole():
    made, exchanges = Made(), []
    for env in ("smax/3s_vs_4z", "smax/3s_vs_3z"):
        for label in ("a", "b"):
            exchange = Exchange(made.add(label, [RISING] * 3, env=env).runs[1:])
            made.records.exchanges[exchange.name] = np.eye(2)
            exchanges.append((label, exchange))
    drawn = drawings._exchanges(made.result(exchanges=tuple(exchanges)))
    drawn.canvas.draw()
    for axes in drawn.axes[:4]:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2"]
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            box = text.get_window_extent()
            assert drawn.bbox.contains(box.x0, box.y0) and drawn.bbox.contains(box.x1, box.y1)


def test_areas_are_drawn_over_levels(write):
    made = levels(100.0, 1.0)
    text = write(made.result(axis="episodes"))
    (points, line), layout = figure(text, "study-tiny-levels")
    assert points["x"] == [1, 100] and points["text"] == ["1 episodes", "100 episodes"]
    assert points["y"] == pytest.approx([0.5, 0.5])
    assert points["error_y"]["array"] == pytest.approx([0.1, 0.1])
    assert line["y"] == pytest.approx([0.2] * 50) and line["name"] == "none"
    assert line["x"][0] < 1 and line["x"][-1] > 100
    assert layout["xaxis"]["type"] == "log" and layout["xaxis"]["title"]["text"] == "episodes"
    _, layout = figure(write(levels(1.0, 10.0).result(axis="tenths")), "study-tiny-levels")
    assert "type" not in layout["xaxis"]
    assert "study-tiny-levels" not in write(levels(1.0).result())


def exchanged() -> Result:
    made = Made()
    exchange = Exchange(made.add("one", [RISING, RISING, HALF]).runs)
    made.records.exchanges[exchange.name] = np.array([[0.9, 0.5, 0.4], [0.3, 0.8, 0.2], [0, 0, 1]])
    return made.result(exchanges=(("one", exchange),))


def test_exchanges_are_heat_maps(write):
    (heat,), layout = figure(write(exchanged()), "study-tiny-exchanges")
    assert heat["type"] == "heatmap" and heat["z"][0] == [0.9, 0.5, 0.4]
    assert heat["x"] == heat["y"] == ["seed 0", "seed 1", "seed 2"]
    assert layout["annotations"][0]["text"] == f"<b>{ENV}, one</b>"


# ---- in a browser

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
CURVES = "study-tiny-curves"


PATIENCE_MS = 180_000  # a machine with much else to do has taken more than the usual 30 seconds


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A report in headless Chromium: the page, its requests, and what went wrong in it."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    made = levels(1.0, 10.0)
    made.add(NASTY, [RISING, HALF], demos=0.75)
    out = tmp_path_factory.mktemp("report") / "report.html"
    results = [made.result(Claim("It.", NASTY, "none"), axis="episodes")]
    write_report(results, out, scale="quick", commands={})
    with api.sync_playwright() as playwright:
        chromium_with = {"executable_path": chromium, "args": FLAGS.split()}
        browser = playwright.chromium.launch(**chromium_with, timeout=PATIENCE_MS)
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.set_default_timeout(PATIENCE_MS)
        requests, problems = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.goto(out.as_uri())
        page.wait_for_selector(f"#{CURVES} .legendtoggle")
        yield page, requests, problems, out.as_uri()
        assert not problems  # nor after all that tests did with it
        browser.close()


def test_the_page_opens_without_a_word_and_without_the_network(opened):
    _, requests, problems, address = opened
    assert requests == [address] and not problems


def test_the_plots_are_drawn_and_fit(opened):
    page, *_ = opened
    # Three bands, three lines, and the demonstrators.
    for identifier, traces in ((CURVES, 4 + 4 + 1), ("study-tiny-levels", 1 + 2)):
        assert page.locator(f"#{identifier} svg.main-svg").count() > 0
        assert page.locator(f"#{identifier} .scatterlayer .trace").count() == traces
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    names = page.locator(f"#{CURVES} .legendtext").all_text_contents()
    assert names == ["none", "1 episodes", "10 episodes", NASTY, "demonstrators"]


@pytest.mark.parametrize(
    ("identifier", "at", "words"),
    [
        # 0.6 and 0: the standard error of two is half their difference.
        (CURVES, (100_000, 0.3), f"{NASTY}step 100,000mean 0.300, standard error 0.300"),
        (CURVES, (200_000, 0.75), f"demonstrators of {NASTY}0.750"),
        ("study-tiny-levels", (5.5, 0.2), "none, without a level0.200"),
    ],
)
def test_a_curve_says_what_it_is_where_the_mouse_is(opened, identifier, at, words):
    from playwright.sync_api import expect

    page, *_ = opened
    page.locator(f"#{identifier}").scroll_into_view_if_needed()
    place = page.evaluate(
        """([id, step, rate]) => {
            const plot = document.getElementById(id), box = plot.getBoundingClientRect();
            const {xaxis, yaxis} = plot._fullLayout;
            return [box.left + xaxis._offset + xaxis.l2p(step),
                    box.top + yaxis._offset + yaxis.l2p(rate)];
        }""",
        [identifier, *at],
    )
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place)
    # A busy machine shows the label of the place before for a moment.
    label = page.locator(f"#{identifier} .hoverlayer .hovertext").first
    expect(label).to_have_text(words, timeout=PATIENCE_MS)


def test_a_click_on_the_legend_hides_a_curve_and_its_band(opened):
    from playwright.sync_api import expect

    page, *_ = opened
    traces = page.locator(f"#{CURVES} .scatterlayer .trace")
    before = traces.count()
    page.locator(f"#{CURVES} .legendtoggle").nth(3).click()
    expect(traces).to_have_count(before - 2, timeout=PATIENCE_MS)
    shown = f"document.getElementById('{CURVES}').data.filter(t => t.visible !== 'legendonly')"
    names = page.evaluate(f"{shown}.map(t => t.name)")
    assert len(names) == before - 2 and not [name for name in names if "script" in name]

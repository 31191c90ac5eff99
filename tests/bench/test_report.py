"""`fastconv report`: the page, its figures, and what it says where it cannot make them."""

import re
import shutil
import struct
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib.image
from matplotlib.figure import Figure
from report_rows import HOSTILE, LAYERS, NETWORKS, reported, write_made_up

import fastconv.bench
from fastconv.__main__ import main
from fastconv.bench.measure.record import append_csv
from fastconv.bench.report.plots import Bar, bar_panels, ratio_colours
from fastconv.bench.report.roofline_plot import ceilings, draw_roof

RESULTS = Path(fastconv.bench.__file__).parent / "results" / "cpu_amd_epyc_2cores"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_up")
    write_made_up(folder)
    return folder


@pytest.fixture(scope="module")
def page(made_up):
    return reported(made_up)


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("committed")
    for path in RESULTS.glob("*.csv"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("results", ["made_up", "committed"])
def test_the_page_needs_nothing_else(results, request):
    page = reported(request.getfixturevalue(results))
    assert page.tags.count("html") == 1 and {"networks", "families", "roofline", "lines"} <= {
        value for name, value in page.attributes if name == "id"
    }
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert links and all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not [v for name, v in page.attributes if name.startswith("on") or "url(" in (v or "")]
    assert "url(" not in page.words and "@import" not in page.words


def test_the_page_gives_the_numbers(page):
    # Of 2, 1/2, 4 and 1; the line without a kernel is none of the backend's.
    assert "Geometric mean of 4 lines: faster on 2, slower on 1, within 5% on 1" in page.words
    assert "1.41\xd7" in page.words and "1 disturbed by other programs" in page.words
    assert "fastconv against torch on Abacus <9>" in page.words
    assert "fastconv bench --threads 1" in page.words and "2026-11-23" in page.words
    row = page.row("n1c9h8k8r1s1p0")
    assert row[-5:] == ["10.0", "5.00", "0.50", "87.2", "ok"]
    assert page.row("n3c8h8k8r1s1p0")[-3:] == ["9.00\xa0!", "-", "disturbed: 0.70 CPUs"]


def test_names_are_text_whatever_they_hold(page):
    assert "script" not in page.tags
    assert page.row(f"net {HOSTILE}")[1] == "n1c8h8k8r1s1p0"


def test_what_is_wrong_has_a_reason_and_no_number(page):
    assert page.row("n4c8h8k8r1s1p0")[-5:] == ["-", "-", "-", "-", "wrong: error is <9> times"]
    assert "wrong, 1 line: error is <9> times" in page.words
    assert "no kernel: none ran" in page.row("no kernel: none ran")
    assert "7.77" not in page.words and "123" not in page.words


def test_the_page_copes_with_less(tmp_path):
    append_csv(tmp_path / "models.csv", NETWORKS[:1], {})
    page = reported(tmp_path)
    assert "do not say by which command" in page.words and "No layer was measured" in page.words
    append_csv(tmp_path / "ops.csv", [LAYERS[4]], {})
    (tmp_path / "models.csv").unlink()
    page = reported(tmp_path)
    assert "No network was measured" in page.words and "1 line without a number" in page.words


def test_figures_lie_beside_the_page(made_up, capsys):
    reported(made_up)
    out = capsys.readouterr().out.splitlines()
    written = [Path(line) for line in out[:-1]]
    assert written[0] == made_up / "report.html" and "faster on 2 of 4 lines" in out[-1]
    # Networks in two dtypes; layers of two comparisons, one of them without a number.
    names = {path.name for path in written[1:]}
    assert names == {"networks_1.png", "networks_2.png", "families_1.png", "roofline_1.png"}
    for path in written[1:]:
        head = path.read_bytes()[:24]
        width, height = struct.unpack(">II", head[16:])
        assert head.startswith(b"\x89PNG") and 1500 < width < 2500 and 200 < height < 5000


@pytest.mark.parametrize(("ratio", "strong", "weak"), [(3.0, 2, 0), (1 / 3, 0, 2)])
def test_bars_have_the_colour_and_the_side_of_their_ratio(ratio, strong, weak, tmp_path):
    groups = {HOSTILE: {HOSTILE: {"panel": Bar(ratio)}}}  # not a formula
    image = matplotlib.image.imread(bar_panels(tmp_path / "bars.png", ["panel"], groups, "x"))
    coloured = image[..., strong] - image[..., weak] > 0.5
    assert coloured.sum() > 1000
    assert not (image[..., weak] - image[..., strong] > 0.5).any()
    # The names take the left of the figure, the bar the rest up to, or from, the line at 1.
    columns = coloured.any(axis=0).nonzero()[0]
    line = (image[..., :3].max(axis=2) < 0.2).sum(axis=0).argmax()
    assert (columns.mean() > line) == (ratio > 1)


def test_one_colour_scale_for_wins_and_losses():
    def rgb(text):
        return [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]

    def luminance(text):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(text)]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for step in range(-20, 21):
        dark, bright = sorted(map(luminance, ratio_colours(2 ** (step / 10))))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5  # WCAG's contrast for text
    level, faster, slower = (rgb(ratio_colours(ratio)[0]) for ratio in (1, 1.5, 1 / 1.5))
    assert max(level) - min(level) < 0.02
    assert faster[2] > faster[0] and slower[0] > slower[2]
    assert ratio_colours(2) == ratio_colours(50) and ratio_colours(0.5) == ratio_colours(0.01)


def test_the_roof_is_drawn_where_the_ceilings_are_known():
    row = LAYERS[0]
    where = {id(row): {"ceiling_copy_gbs": "20", "ceiling_fp32_tflops": "0.4", "device": "x"}}
    known = ceilings([row], where)
    assert known == {"copy_gbs": 20.0, "fp32_tflops": 0.4}
    axes = Figure().subplots()
    assert draw_roof(axes, known, "float32", [1.0, 300.0]).startswith(
        "roof: copy 20 GB/s, fp32 0.4"
    )
    (line,) = axes.get_lines()
    # The ridge is where the copy's rate feeds the peak: 0.4e12 / 20e9 FLOP/byte.
    assert list(line.get_xdata())[1] == pytest.approx(20)
    assert list(line.get_ydata()) == pytest.approx([20e9 * line.get_xdata()[0] / 1e12, 0.4, 0.4])
    right_of_the_ridge = Figure().subplots()
    draw_roof(right_of_the_ridge, known, "float32", [60.0, 200.0])
    (line,) = right_of_the_ridge.get_lines()
    assert sorted(line.get_xdata()) == list(line.get_xdata()) and max(line.get_ydata()) == 0.4
    bare = Figure().subplots()
    assert "no roof" in draw_roof(bare, {}, "float32", [1.0]) and not bare.get_lines()


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"op,pass\n" + b"x" * 200_000 + b"\n"])
def test_what_is_no_file_of_results_is_said_in_one_line(content, tmp_path, capsys):
    (tmp_path / "pools.csv").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pools.csv, line" in err


@pytest.mark.parametrize("content", [None, "", "op,pass\nconv2d,fprop\n"])
def test_a_folder_without_results_is_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "layers.csv").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "layers.csv" in captured.err and not captured.out


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_one_line(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)  # makes `import module` fail
    assert main(["report"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(rf"pip install '?{module}", err)

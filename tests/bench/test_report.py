"""`fastconv report`: the page and its figures, from CSV files."""

import re
import shutil
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_rows import HOSTILE, LAYERS, NETWORKS, RESULTS, WHERE, layer, network

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

import matplotlib.image
from matplotlib.figure import Figure

from fastconv.__main__ import main
from fastconv.bench.measure.record import append_csv, read_rows
from fastconv.bench.report.choices import compare_choices
from fastconv.bench.report.plots import Bar, bar_panels, ratio_colours
from fastconv.bench.report.results import read_parts, rows_of_the_readme
from fastconv.bench.report.roofline_plot import ceilings, draw_roof
from fastconv.bench.report.summary import Summary

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """What a page holds; a tag that is closed out of turn is an error."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.text, self.open = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and self.rows[-1] and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip()

    def row(self, cell):
        """The one table row with such a cell."""
        (found,) = [row for row in self.rows if cell in row]
        return found

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def reported(folder, *arguments):
    """The Page of a folder."""
    assert main(["report", str(folder), *arguments]) == 0
    return Page((folder / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_up")
    append_csv(folder / "layers.csv", LAYERS, WHERE | {"command": "fastconv bench --threads 1"})
    append_csv(folder / "models.csv", NETWORKS, WHERE)
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


def test_rows_are_read_as_they_were_written(made_up):
    pairs = read_rows(made_up / "layers.csv")
    # Times are written with five digits.
    assert [row for row, _ in pairs][:4] == LAYERS[:4] and pairs[4][0].us == 123.46
    assert pairs[0][1] == WHERE | {"command": "fastconv bench --threads 1"}


def test_columns_younger_than_a_file_are_none_and_older_ones_are_asked_for(tmp_path):
    path = tmp_path / "layers.csv"
    old = "op,pass,family,model,layer,problem,layout,dtype"
    path.write_text(f"{old},us\nconv2d,fprop,dilated,net,conv,n1,nchw,float32,2.5\n")
    ((row, where),) = read_rows(path)
    assert row.us == 2.5 and row.roofline_percent is None and row.status == "ok" and where == {}
    path.write_text(f"{old},us\nconv2d,fprop,dilated,net,conv,n1,nchw,float32,fast\n")
    with pytest.raises(ValueError, match=r"layers\.csv, line 2: .*'fast'"):
        read_rows(path)
    path.write_text("op,pass\nconv2d,fprop\n")
    with pytest.raises(ValueError, match="no column 'family'"):
        read_rows(path)


def test_a_summary_counts_what_is_quotable():
    summary = Summary.of(LAYERS)
    assert summary.lines == 4 and (summary.low, summary.high) == (0.5, 4.0)
    assert summary.mean == pytest.approx(4 ** (1 / 4))  # of 2, 1/2, 4 and 1
    assert (summary.wins, summary.losses, summary.level) == (2, 1, 1)
    assert not summary.is_disturbed and Summary.of(LAYERS[4:6]) is None
    disturbed = Summary.of(LAYERS[3:6])
    assert disturbed.is_disturbed and (disturbed.lines, disturbed.mean) == (1, pytest.approx(9.0))


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


def test_of_disturbed_lines_alone_the_page_has_marked_numbers(tmp_path, capsys):
    append_csv(tmp_path / "layers.csv", [layer(9.0, others_cpus=0.7)], WHERE)
    page = reported(tmp_path)
    assert "9.00\xd7 !" in page.words and "1 disturbed by other programs" in page.words
    assert "(all lines disturbed): geometric mean 9.00x" in capsys.readouterr().out
    page = reported(tmp_path, "--disturbed-limit", "0.8")
    assert "9.00\xd7" in page.words and "9.00\xd7 !" not in page.words


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


def test_the_fastest_choice_is_marked():
    ways, (line,) = compare_choices(NETWORKS)
    assert [(w.dtype, w.layout, w.variants) for w in ways] == [
        ("float32", "nchw", ("converted", "fused")),
        ("float32", "channels_last", ("converted",)),
        ("bfloat16", "channels_last", ("fused",)),
    ]
    # torch was timed against two variants in NCHW: 100,000 us and 90,000 us.
    assert [round(c.us) for c in line.choices] == [90000, 80000, 60000, 90000, 100000, 90250, 95000]
    assert [c.is_fastest for c in line.choices] == [False, False, True, False, False, True, False]
    assert [c.is_fastest_of_all for c in line.choices].index(True) == 2
    compiled = network("resnet18", "fused", "nchw", 61e3, 1.1, baseline="torch.compile")
    ways, (line,) = compare_choices([*NETWORKS[:3], compiled])
    assert [w.baseline for w in ways] == ["torch", "torch", "torch.compile"]
    assert [round(c.us) for c in line.choices[-2:]] == [67100, 61000]
    assert line.choices[0].us == 90000
    disturbed = network("resnet18", "fused", "nchw", 1e3, 90.0, others_cpus=0.9)
    _, (line,) = compare_choices([NETWORKS[0], disturbed])
    assert [(c.us, c.note) for c in line.choices][2] == (None, "1 !")
    assert [c.is_fastest_of_all for c in line.choices] == [False, True, False]


def test_the_page_speaks_of_fastconvs_own_choice(tmp_path):
    named = {"backend": "reference", "requested_backend": "reference"}
    append_csv(tmp_path / "layers.csv", [layer(2.0), layer(0.01, **named)], WHERE)
    slow = network("resnet18", "converted", "nchw", 9e6, 0.01, requested_backend="reference")
    append_csv(tmp_path / "models.csv", [*NETWORKS, slow], WHERE)
    assert rows_of_the_readme(read_parts(tmp_path)) == [*NETWORKS, layer(2.0)]
    page = reported(tmp_path)
    assert "reference, float32, against torch" in page.words
    assert "Geometric mean of 1 line" in page.words and "9000" not in page.words


def test_of_lines_measured_again_the_last_one_counts(tmp_path):
    path = tmp_path / "layers.csv"
    append_csv(path, [layer(2.0), layer(3.0)], WHERE)
    with open(path, "a") as file:  # a run that was killed
        file.write(path.read_text().splitlines()[2][:40])
    ((row, _),) = read_parts(tmp_path)["Layers and pools"]
    assert row.x_baseline == 3.0


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

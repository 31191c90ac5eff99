"""Made-up results, and how the page that `fastconv report` makes of results is read."""

from html.parser import HTMLParser

from fastconv.__main__ import main
from fastconv.bench.measure.record import Row, append_csv

WHERE = {
    "device": "Abacus <9>",
    "torch": "2.13",
    "commit": "abc",
    "utc": "2026-11-23T10:00:00+00:00",
}
HOSTILE = "<script>alert('$x^{$')</script>"
VOID = {"meta", "img", "br", "link", "hr", "input"}


def layer(ratio, us=10.0, **fields):
    values = {
        "op": "conv2d", "pass_": "fprop", "family": "dense 1x1", "model": "net", "layer": "conv",
        "problem": "n1c8h8k8r1s1p0", "layout": "nchw", "dtype": "float32", "threads": 1,
        "backend": "cpu", "algorithm": "implicit_gemm", "us": us, "baseline": "torch",
        "tflops": 0.1, "gbs": 5.0,
    }  # fmt: skip
    if ratio is not None:
        values |= {"x_baseline": ratio, "baseline_us": ratio * us}
    return Row(**(values | fields))


def network(model, variant, layout, us, ratio, **fields):
    values = {"op": "network", "pass_": "inference", "family": model, "model": model}
    values |= {"layer": variant, "problem": "n8c3h224", "layout": layout, "backend": None}
    return layer(ratio, us, **(values | fields))


LAYERS = [
    layer(2.0, layer=HOSTILE),
    layer(0.5, problem="n1c9h8k8r1s1p0", roofline_percent=87.25),
    layer(4.0, problem="n2c8h8k8r1s1p0", layout="channels_last"),
    layer(9.0, problem="n3c8h8k8r1s1p0", others_cpus=0.7),
    layer(7.77, 123.456, problem="n4c8h8k8r1s1p0", status="wrong", reason="error is <9> times"),
    layer(None, None, pass_="dgrad", status="no kernel", reason="none ran", backend=None),
    layer(1.0, family="max pool", op="max_pool2d", pass_="fwd", tflops=None),
]
NETWORKS = [
    network("resnet18", "converted", "nchw", 80e3, 1.25),
    network("resnet18", "converted", "channels_last", 100e3, 0.9),
    network("resnet18", "fused", "nchw", 60e3, 1.5),
    network("resnet18", "fused", "channels_last", 95e3, 0.95, dtype="bfloat16"),
]


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


def write_made_up(folder):
    append_csv(folder / "layers.csv", LAYERS, WHERE | {"command": "fastconv bench --threads 1"})
    append_csv(folder / "models.csv", NETWORKS, WHERE)

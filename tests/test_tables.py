"""Tables show the same cells as text and as HTML, and what shows itself in a notebook is well formed."""

from functools import partial
from html.parser import HTMLParser
from math import nan

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn
from gpunet.tables import Table
from gpunet.train import History

VOID = {"rect", "circle", "polyline"}
"""SVG elements that are closed where they begin."""


class Parsed(HTMLParser):
    """The cells of each row, the other texts, and the attributes of each element; elements must nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.texts, self.elements = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.texts.append(data)


def table(totals=("sum", "3")):
    return Table(("name", "<count>"), [("a & b", "1"), ("c", "2")], totals, (False, True), "a <note>")


def test_text_has_aligned_columns_and_rules():
    assert str(table()) == (
        "name   <count>\n--------------\na & b        1\nc            2\n--------------\nsum          3\na <note>"
    )
    assert str(table(())).splitlines()[-3:] == ["a & b        1", "c            2", "a <note>"]


def test_html_has_the_cells_of_the_text_and_no_markup_of_theirs():
    parsed = Parsed(table()._repr_html_())
    assert parsed.rows == [["name", "<count>"], ["a & b", "1"], ["c", "2"], ["sum", "3"]]
    assert parsed.texts == ["a <note>"]
    sides = [a["style"].split(";")[0] for tag, a in parsed.elements if tag in ("td", "th")]
    assert sides == ["text-align: left", "text-align: right"] * 4


MODEL = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


@pytest.mark.parametrize("make", [gp.summary, partial(gp.plan, gpu="H200")], ids=["summary", "plan"])
def test_summaries_and_plans_show_what_they_print(make):
    shown = make(MODEL, (6, 6, 1))
    rows = Parsed(shown._repr_html_()).rows
    lines = [line for line in str(shown).splitlines() if not line.startswith("---")]
    assert len(rows) == len(lines) - 1  # a note is the last line
    for row, line in zip(rows, lines, strict=False):
        assert line.split() == " ".join(row).split()


def test_a_model_lists_its_modules_and_counts_shared_parameters_once():
    shared = nn.Linear(3, 3)
    rows = Parsed(nn.Sequential(shared, nn.Sequential(nn.Dropout(0.25), shared), nn.Linear(3, 2))._repr_html_()).rows
    assert ["0", "Linear(3, 3)", "12"] in rows
    assert ["1.0", "Dropout(0.25)", ""] in rows
    assert rows[-1] == ["total", "", "20"]
    assert sum(int(row[2]) for row in rows[1:-1] if row[2]) == 20


def test_a_tensor_shows_facts_and_values(backend):
    parsed = Parsed(
        gp.tensor(np.array([[1, 2], [3, 6]], np.float32), backend=backend, requires_grad=True)._repr_html_()
    )
    facts = dict(zip(*parsed.rows, strict=True))
    assert facts.pop("backend") == backend.name
    assert facts.pop("dtype") == "float32"
    assert facts == {"shape": "(2, 2)", "requires grad": "True", "min": "1", "mean": "3", "max": "6"}
    assert parsed.texts == ["[[1. 2.]\n [3. 6.]]"]


@pytest.mark.parametrize(
    "values", [np.zeros((0, 3), np.float32), np.array(2.0), np.full((100, 100), nan), np.array([True, False])]
)
def test_every_tensor_shows_itself(values):
    html = gp.tensor(values)._repr_html_()
    assert Parsed(html).rows[1][0] == str(values.shape)
    assert len(html) < 3000


def test_a_history_shows_curves_and_its_last_epochs():
    rows = [
        {"epoch": e, "loss": 1 / e, "accuracy": 0.5, "valid_loss": nan if e == 3 else 2 / e, "lr": 0.1, "seconds": 2.0}
        for e in range(1, 15)
    ]
    parsed = Parsed(History(rows)._repr_html_())
    assert parsed.rows[0] == ["epoch", "loss", "accuracy", "valid loss", "lr", "seconds"]
    assert parsed.rows[1] == ["5", "0.2", "50.00%", "0.4", "0.1", "2.0"]
    assert len(parsed.rows) == 1 + 10
    assert "the last 10 of 14 epochs" in parsed.texts
    assert {"loss", "valid loss", "accuracy"} < set(parsed.texts)
    lines = [a["points"].split() for tag, a in parsed.elements if tag == "polyline"]
    assert [len(line) for line in lines] == [14, 2, 11, 14]  # the loss, the validation's with a gap, the accuracy
    y = [float(point.split(",")[1]) for point in lines[0]]
    assert y == sorted(y)  # the loss falls, and SVG counts downwards


@pytest.mark.parametrize("rows", [[], [{"epoch": 1, "loss": 2.0}], [{"loss": nan}], [{"loss": 1.0}, {"accuracy": 0.5}]])
def test_every_history_shows_itself(rows):
    parsed = Parsed(History(rows)._repr_html_())
    assert len(parsed.rows) == 1 + len(rows)
    assert "nan" not in str([a for tag, a in parsed.elements if tag in VOID])

"""Pictures, by their coordinates."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from limbeck.report.charts import (
    HEIGHT,
    WIDTH,
    Interval,
    Named,
    averaged,
    curve,
    histogram,
    intervals,
    scatter,
)


def read(picture: Markup) -> ElementTree.Element:
    """The picture as a tree, which it has to be; every number in it is finite."""
    assert "nan" not in picture.lower().replace("name", "")
    return ElementTree.fromstring(picture)


def lines(tree: ElementTree.Element, kind: str) -> list[list[tuple[float, float]]]:
    """The places that the paths of a kind go through."""
    paths = [each.get("d", "") for each in tree.iter("path") if each.get("class") == kind]
    return [
        [tuple(map(float, place.split(","))) for place in re.split("[ML]", path) if place]  # type: ignore[misc]
        for path in paths
    ]


def labels(tree: ElementTree.Element) -> list[str]:
    return [str(each.text) for each in tree.iter("text")]


def test_a_curve_by_hand() -> None:
    """x from 0 to 100 has 6 left free on either side, on the 330 units from 58 to 388: 0 lies at
    58 + 330 * 6 / 112 = 75.7. y from 1 to 3 likewise, from 202 up to 10: 1 lies at
    202 - 192 * 0.12 / 2.24 = 191.7.
    """
    tree = read(curve("Loss", [(0, 3), (50, 2), (100, 1)], x="update", y="loss"))
    [line] = lines(tree, "line s1")
    assert line == [(75.7, 20.3), (223.0, 106.0), (370.3, 191.7)]
    assert [label for label in labels(tree) if label[0].isdigit()] == [
        *("0", "50", "100"),
        *("1.0", "1.5", "2.0", "2.5", "3.0"),
    ]
    [picture] = tree.findall("svg")
    assert picture.get("aria-label") == "Loss: loss from 3 to 1, update 0 to 100."


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-9])
def test_a_curve_of_one_value_can_be_drawn(value: float) -> None:
    [line] = lines(read(curve("dev", [(7.0, value)], x="u", y="v", marked=True)), "line s1")
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in line)


def test_long_curves_are_averaged() -> None:
    shown, size = averaged([(float(n), float(n % 2)) for n in range(1000)])
    assert (len(shown), size) == (143, 7)
    assert shown[0] == (3.0, 3 / 7)  # of 0 1 0 1 0 1 0


def test_the_best_points_are_joined_and_names_do_not_leave_the_picture() -> None:
    """Fast and bad, slow and good, and slower but worse than that."""
    points = [Named("a", 1.0, 0.2), Named("the good one", 100.0, 0.8), Named("beaten", 120.0, 0.7)]
    tree = read(scatter("Cost", points, x="ms", y="nDCG@10", less_is_better=True))
    assert [each.get("class") for each in tree.iter("circle")] == ["s1", "s1", "s3"]
    assert len(lines(tree, "line s1 faint")[0]) == 2
    for text in tree.iter("text"):
        width = 6.6 * len(str(text.text))
        left = float(text.get("x", 0)) - {"start": 0, "middle": width / 2}.get(
            str(text.get("text-anchor")), width
        )
        if text.get("transform") is None:
            assert left >= 0, text.text
            assert left + width <= WIDTH, text.text


def test_intervals_have_a_line_each_and_long_names_keep_their_end() -> None:
    name = "a/very/long/path/that/goes/on/and/on/run-3"
    rows = [Interval("kl", 0.02, 0.01, 0.03), Interval(name, -0.01, -0.02, 0.0)]
    tree = read(intervals("Difference", rows, x="difference", zero=True))
    assert len(lines(tree, "line s1")) == 2
    [[(x, _), (again, _)]] = lines(tree, "axis")
    assert x == again == lines(tree, "line s1")[1][1][0]  # the second interval ends at 0
    [shortened] = [label for label in labels(tree) if label.startswith("…")]
    assert name.endswith(shortened[1:])


def test_bins_are_as_high_as_their_shares() -> None:
    """The highest share, 0.75, is as high as the picture; 0.25 a third of it."""
    shares = {"yes": [0.25, 0.75], "no": [0.5, 0.5]}
    tree = read(histogram("Scores", [0.0, 1.0, 2.0], shares, x="score"))
    [line] = lines(tree, "area s1")
    assert line == [(58, 202), (58, 138), (223, 138), (223, 10), (388, 10), (388, 202)]
    assert [str(each.find("svg").tail).strip() for each in tree.iter("li")] == ["yes", "no"]  # type: ignore[union-attr]


def test_names_are_data() -> None:
    point = Named("<script>", 1.0, 0.5)
    picture = scatter('"a" & b', [point, point], x="<x>", y="y", less_is_better=False)
    assert "<script>" not in picture
    assert "<x>" not in picture
    assert "<script>" in labels(read(picture))

"""The plane of all methods (frontier.py), on points with known answers."""

import frontier
import pytest

from common.basics import UserError
from common.saving import write_json


def made_up_point(method: str, series: str, kl: float, gold: float, **rest) -> dict:
    about = {"method": method, "series": series, "label": "", "annotations": 768, "biased": False}
    return {**about, "kl": kl, "gold": gold, "good": 0.5, "n": None, **rest}


POINTS = [
    made_up_point("best of n", "6400", 0.0, 2.0, n=1, annotations=6400),
    made_up_point("best of n", "6400", 1.0, 3.6, n=16, annotations=6400),
    made_up_point("best of n", "6400", 1.5, 3.7, n=32, annotations=6400),
    made_up_point("optimum", "", 1.0, 4.0, sample_share=0.5, annotations=0),
    made_up_point("optimum", "", 9.0, 9.0, sample_share=0.01),  # not to be trusted
    made_up_point("DPO", "768", 0.5, 2.5),
]


def test_the_limit_starts_at_the_sft_model_and_stops_where_the_pool_does():
    assert frontier.limit_curve(POINTS) == [(0.0, 2.0), (1.0, 4.0)]


def test_a_gain_is_a_share_of_the_limits_at_the_same_kl():
    limit = frontier.limit_curve(POINTS)
    dpo = frontier.gain_and_share(POINTS[-1], limit)
    assert dpo["gain"] == pytest.approx(0.5)  # 2.5 - 2
    assert dpo["share"] == pytest.approx(0.5)  # the limit gains 1 at 0.5 nats
    beyond = frontier.gain_and_share(made_up_point("DPO", "x", 5.0, 3.0), limit)
    assert beyond["share"] == pytest.approx(0.5)  # flat beyond its last KL


def method_of(name: str, series: str) -> frontier.Method:
    wanted = name, series
    return next(m for m in frontier.METHODS if (m.name, m.series) == wanted)


def test_a_method_is_its_n_or_the_end_of_its_training():
    best = frontier.point_for(method_of("best of n", "6400"), POINTS)
    assert best["n"] == frontier.N == 16 and frontier.budget_of(best) == 6400
    later = made_up_point("DPO", "768", 0.7, 2.7)
    assert frontier.point_for(method_of("DPO", "768"), [*POINTS, later]) is later
    assert frontier.budget_of(later) == 768 == frontier.budget_of(later | {"annotations": 64})
    with pytest.raises(UserError, match=r"nothing was measured of KTO \(kto\)"):
        frontier.point_for(method_of("KTO", "kto"), POINTS)


def test_gains_and_shares_are_averaged_over_seeds_each_against_its_own_limit(monkeypatch):
    monkeypatch.setattr(frontier, "METHODS", (method_of("DPO", "768"),))
    lower = [point | {"gold": point["gold"] - 0.5 * (point["n"] == 1)} for point in POINTS]
    (row,) = frontier.compare_methods([POINTS, lower])  # of the second seed SFT has 1.5
    assert row["gain"]["by_seed"] == pytest.approx([0.5, 1.0])
    assert row["share"]["by_seed"] == pytest.approx([0.5, 0.8])  # 1.0 of 1.25 at 0.5 nats
    half = 12.71 * 0.25  # t of one degree of freedom, times the standard error of two numbers
    assert row["gain"]["ci95"] == pytest.approx([0.75 - half, 0.75 + half])
    assert row["budget"] == 768 and row["kl"] == 0.5
    (alone,) = frontier.compare_methods([POINTS])
    assert alone["gain"] == {"mean": pytest.approx(0.5), "ci95": None, "by_seed": [0.5]}


def write_study(folder, name: str, kls: list[float]) -> None:
    points = [[made_up_point("DPO", name, kl, 2.0)] for kl in kls]
    parts = [{"seed": k, "metrics": {"points": p}} for k, p in enumerate(points)]
    content = {"seeds": list(range(len(kls))), "runs": parts}
    write_json(folder / "studies" / f"{name}.json", content)


def test_points_are_averaged_over_seeds_and_a_missing_study_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(frontier, "SOURCES", ("one", "two"))
    monkeypatch.setattr(frontier.runs, "COMMITTED", tmp_path / "committed")
    with pytest.raises(UserError, match=r"studies/one\.py makes them"):
        frontier.collect_points(tmp_path)
    for name, kls in (("one", [1.0, 3.0]), ("two", [5.0, 5.0])):
        write_study(tmp_path / "committed", name, kls)
    seeds = frontier.collect_points(tmp_path)
    assert [[point["kl"] for point in points] for points in seeds] == [[1.0, 5.0], [3.0, 5.0]]
    assert [point["kl"] for point in frontier.mean_points(seeds)] == [2.0, 5.0]
    write_study(tmp_path, "one", [9.0])  # one of two: the committed run stays as a whole
    assert len(frontier.collect_points(tmp_path)) == 2
    write_study(tmp_path, "two", [7.0])
    (alone,) = frontier.collect_points(tmp_path)
    assert [point["kl"] for point in alone] == [9.0, 7.0]


def every_method() -> list[dict]:
    """A made-up result of every method, with few labels and with many."""
    points = list(POINTS)
    for k, method in enumerate(frontier.METHODS):
        labels = 6400 if method.series == "6400" else 768
        n = frontier.N if "best of n" in method.name else None
        about = {"annotations": labels, "n": n}
        points.append(
            made_up_point(method.name, method.series, 0.1 + 0.1 * k, 2.05 + 0.1 * k, **about)
        )
    return points


def test_one_plane_for_each_budget_and_a_short_legend_outside_them():
    from common.figures import COLORS

    assert all(method.color in COLORS for method in frontier.METHODS)
    points = every_method()
    rows = frontier.compare_methods([points, points])
    assert len({(row["method"], row["budget"]) for row in rows}) == len(frontier.METHODS)
    figure = frontier.draw(points, frontier.limit_curve(points), rows)
    _, gains, few, many = figure.axes
    for ax, budget in ((few, 768), (many, 6400)):
        drawn = [xy for line in ax.lines for xy in zip(*line.get_data(), strict=True)]
        for point in points[len(POINTS) :]:
            assert ((point["kl"], point["gold"]) in drawn) == (frontier.budget_of(point) == budget)
    assert len(gains.patches) == len(frontier.METHODS)
    (legend,) = figure.legends
    assert len(legend.get_texts()) <= 8 and few.get_legend() is None

"""The plane of all methods (frontier.py), on points with known answers."""

import frontier
import pytest

from common.basics import UserError
from common.saving import write_json


def quantity(mean: float, half: float = 0.1) -> dict:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def made_up_point(method: str, series: str, kl: float, gold: float, **rest) -> dict:
    about = {"method": method, "series": series, "label": "", "annotations": 8, "biased": False}
    measured = {"kl": quantity(kl, 0), "gold": quantity(gold), "good": quantity(0.5)}
    return {**about, **measured, "n": None, **rest}


POINTS = [
    made_up_point("best of n", "human", 0.0, 2.0, n=1),
    made_up_point("best of n", "human", 1.0, 3.6, n=16),
    made_up_point("best of n", "human", 1.5, 3.7, n=32),
    made_up_point("optimum", "", 1.0, 4.0, sample_share=0.5),
    made_up_point("optimum", "", 9.0, 9.0, sample_share=0.01),  # not to be trusted
    made_up_point("DPO", "default", 0.5, 2.5),
]


def test_the_limit_starts_at_the_sft_model_and_stops_where_the_pool_does():
    assert frontier.limit_curve(POINTS) == [(0.0, 2.0), (1.0, 4.0)]


def test_a_gain_is_a_share_of_the_limits_at_the_same_kl():
    limit = frontier.limit_curve(POINTS)
    dpo = frontier.gain_and_share(POINTS[-1], limit)
    assert dpo["gain"]["mean"] == pytest.approx(0.5)  # 2.5 - 2
    assert dpo["share"]["mean"] == pytest.approx(0.5)  # the limit gains 1 at 0.5 nats
    assert dpo["share"]["ci95"] == pytest.approx([0.4, 0.6])
    beyond = frontier.gain_and_share(made_up_point("DPO", "x", 5.0, 3.0), limit)
    assert beyond["share"]["mean"] == pytest.approx(0.5)  # flat beyond its last KL


def test_a_method_is_its_n_or_the_end_of_its_training():
    best_of_n = next(m for m in frontier.METHODS if m.name == "best of n")
    assert frontier.point_for(best_of_n, POINTS)["n"] == frontier.N == 16
    dpo = next(m for m in frontier.METHODS if m.name == "DPO")
    later = made_up_point("DPO", "default", 0.7, 2.7)
    assert frontier.point_for(dpo, [*POINTS, later]) is later
    with pytest.raises(UserError, match="nothing was measured of KTO"):
        frontier.point_for(next(m for m in frontier.METHODS if m.name == "KTO"), POINTS)


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
    first, second = frontier.collect_points(tmp_path)
    assert first["kl"]["mean"] == 2.0 and first["kl"]["by_seed"] == [1.0, 3.0]
    assert second["kl"]["mean"] == 5.0
    write_study(tmp_path, "one", [9.0])  # one of two: the committed run stays as a whole
    assert frontier.collect_points(tmp_path)[0]["kl"]["mean"] == 2.0
    write_study(tmp_path, "two", [7.0])
    assert [point["kl"]["mean"] for point in frontier.collect_points(tmp_path)] == [9.0, 7.0]


def test_every_method_has_a_colour_and_the_legend_is_short():
    from common.figures import COLORS

    assert all(method.color in COLORS for method in frontier.METHODS)
    assert len({method.color for method in frontier.METHODS}) == len(frontier.METHODS)
    assert len(frontier.LINES) + 3 <= 8  # the limit, the SFT model, what hollow means

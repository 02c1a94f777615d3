"""The comparison of all methods with the limit, on points with known answers."""

import frontier
import methods_at_the_limit
import pytest

from common.basics import UserError

LIMIT_AT_ONE_NAT = 4.0


def quantity_of(mean: float, half: float) -> dict:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def point(method: str, series: str, kl: float, gold: float, **rest) -> dict:
    about = {"method": method, "series": series, "biased": False, "annotations": 1}
    return {**about, "kl": quantity_of(kl, 0), "gold": quantity_of(gold, 0.1), **rest}


def test_methods_are_compared_by_their_share_of_the_limits_gain(monkeypatch):
    points = [point("best of n", "human", 0.0, 2.0, n=1)]
    points += [point("optimum", "gold", 1.0, LIMIT_AT_ONE_NAT, sample_share=1.0)]
    gold = {"best of n": 3.8, "DPO": 3.0, "online RL": 3.5}
    for method in frontier.METHODS:
        n = {"n": frontier.N} if method.samples > 1 else {}
        points.append(point(method.name, method.series, 1.0, gold.get(method.name, 2.2), **n))
    monkeypatch.setattr(methods_at_the_limit, "points_of_seed", lambda seed, smoke: points)
    found = methods_at_the_limit.measure(0)
    assert found["methods"]["DPO"]["share"]["mean"] == pytest.approx(0.5)  # 1 of 2
    assert found["best_of_n_minus_dpo"]["mean"] == pytest.approx(0.4)  # 0.9 - 0.5
    assert found["online_rl_minus_dpo"]["mean"] == pytest.approx(0.25)
    low, high = found["best_of_n_minus_dpo"]["ci95"]
    assert high - low == pytest.approx(2 * 2**0.5 * 0.05)  # errors of 0.05 each, independent
    assert found["best_of_n_share"]["mean"] == pytest.approx(1.8 / 1.5)  # of online RL's gain


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(methods_at_the_limit.claims.OUTPUT, "folder", tmp_path)
    with pytest.raises(UserError, match=r"studies/too_much_dpo\.py --seeds 7 makes it"):
        methods_at_the_limit.measure(7)

"""The comparison of all methods with the limit, on points with known answers."""

import methods_at_the_limit
import pytest

from common.basics import UserError
from common.saving import write_json

LIMIT_AT_ONE_NAT = 4.0
GOLD = {  # SFT has 2, the limit 4: shares of the gain are half of what is above 2
    "768": {"best of n": 2.8, "DPO": 3.6, "PPO": 3.0, "DPO + best of n": 3.8},
    "6400": {"best of n": 3.8, "DPO": 3.0, "PPO": 3.5, "DPO + best of n": 3.9},
}


def point(method: str, series: str, kl: float, gold: float, **rest) -> dict:
    return {"method": method, "series": series, "kl": kl, "gold": gold, "n": None, **rest}


def test_methods_are_compared_at_equal_labels_by_their_share_of_the_limits_gain(
    tmp_path, monkeypatch
):
    points = [point("best of n", "6400", 0.0, 2.0, n=1)]
    points += [point("optimum", "gold", 1.0, LIMIT_AT_ONE_NAT, sample_share=1.0)]
    for budget, methods in methods_at_the_limit.SERIES.items():
        for name, method in methods.items():
            n = 16 if "best of n" in name else None
            points.append(point(method.name, method.series, 1.0, GOLD[budget][name], n=n))
    for k, study in enumerate(methods_at_the_limit.SOURCES):  # each has some of them
        metrics = {"points": points[k :: len(methods_at_the_limit.SOURCES)]}
        write_json(tmp_path / "studies" / study / "seed-0.json", {"metrics": metrics})
    monkeypatch.setitem(methods_at_the_limit.claims.OUTPUT, "folder", tmp_path)
    found = methods_at_the_limit.measure(0)
    assert found["methods"]["768"]["DPO"] == pytest.approx({"gain": 1.6, "share": 0.8})
    of_claims = {"768": [0.8 / 1.6, -0.4, -0.3], "6400": [1.8 / 1.5, 0.4, 0.25]}
    for budget, expected in of_claims.items():
        alone = {"methods": {budget: found["methods"][budget]}}
        assert [claim.of(alone) for claim in methods_at_the_limit.CLAIMS] == pytest.approx(expected)
    smaller = [claim.of(found) for claim in methods_at_the_limit.CLAIMS]
    assert smaller == pytest.approx(of_claims["768"])


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(methods_at_the_limit.claims.OUTPUT, "folder", tmp_path)
    with pytest.raises(UserError, match=r"studies/too_much_dpo\.py --seeds 7 makes it"):
        methods_at_the_limit.measure(7)

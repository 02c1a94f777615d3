"""Sampled answers that a run keeps beside its numbers."""

import argparse
import json
import time
from types import SimpleNamespace

from support.answers import answers_of_points, best_of_n_answers, first_prompts, point_name
from support.seeds import merge_runs

import numpy as np
import pytest

from common.models import load_causal_lm
from common.preferences import gold_utility, questions
from common.reporting import finish, read_results


def draw_nothing(metrics, default):
    return SimpleNamespace(save=lambda *_: None)


PROMPTS = [question.prompt for question in questions("test")[:3]]


def point(method: str = "best of n", series: str = "human", **about) -> dict:
    return {"method": method, "series": series, "label": f"n = {about.get('n')}", **about}


def test_the_prompts_are_the_first_that_every_script_asks():
    assert first_prompts(3) == PROMPTS
    assert len(first_prompts(1000)) == 32


def test_the_first_answer_to_each_prompt_stands_under_the_name_of_its_point():
    points = [point(n=1), point(n=2)]
    texts = [[["a", "x"], ["b", "x"]], [["c", "x"], ["d", "x"]]]
    rewards = [{"before": np.array([0.0, 1]), "after": np.array([2, 3.00004])}]
    answers = answers_of_points(["p", "q"], points, texts, rewards)
    first, second = map(point_name, points)
    assert answers["prompts"] == ["p", "q"]
    assert answers["texts"] == {first: ["a", "b"], second: ["c", "d"]}
    assert answers["rewards"] == {first: {"before": [0.0, 1.0], "after": [2.0, 3.0]}}


def test_best_of_n_takes_the_best_of_the_first_n_by_its_own_judge():
    texts = [["It is Rome.", "Rome.", "It is Rome.", "No."] for _ in PROMPTS]
    human = {"texts": texts, "reward": np.array([[1.0, 3, 1, 4]] * 3)}
    length = {"texts": texts, "reward": np.array([[2.0, 1, 2, 0]] * 3)}
    dpo_pool = {"texts": [["X.", "Y."]] * 3, "reward": np.array([[0.0, 7]] * 3)}
    points = [point(n=2), point(n=4), point(series="length", n=4), point("DPO + best of n", n=2)]
    points.append(point("optimum", "gold"))
    pools = {"human": human, "length": length}
    answers = best_of_n_answers(PROMPTS, points, pools, dpo_pool, *load_causal_lm("tiny-gpt2"))
    chosen = [answers["texts"][point_name(p)][0] for p in points[:4]]
    assert chosen == ["Rome.", "No.", "It is Rome.", "Y."]
    assert point_name(points[4]) not in answers["texts"]
    assert answers["rewards"][point_name(points[1])]["before"] == [1.0] * 3
    assert answers["rewards"][point_name(points[3])]["after"] == [7.0] * 3
    pool = answers["pools"][0]
    assert pool["texts"] == ["It is Rome.", "Rome.", "No."]
    assert (pool["drawn"], pool["reward"]) == ([0, 1, 0, 2], [1, 3, 4])
    assert pool["length_reward"] == [2, 1, 0]
    assert pool["gold"] == [gold_utility(PROMPTS[0], text) for text in pool["texts"]]
    assert max(pool["logp"]) < 0


@pytest.mark.parametrize("answers", [None, {"prompts": ["p"], "texts": {"SFT": ["a"]}}])
def test_answers_are_written_where_there_are_any_and_kept_of_the_first_seed(tmp_path, answers):
    about = {"settings": {"seed": 0}, "name": "x", "run_name": "x", "script": "x.py", "seed": 0}
    about |= {
        "changed": {},
        "claims": False,
        "panels": False,
        "figures_dir": tmp_path,
        "started": time.time(),
    }
    args = argparse.Namespace(**about)
    finish(args, {"steps": 1, "answers": answers}, draw_nothing, [])
    results = read_results(tmp_path / "x.json")
    assert results == json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert results.get("answers") == answers
    other = {**results, "seed": 1, "answers": {"prompts": [], "texts": {}}}
    assert merge_runs([results, other], (), ()).get("answers") == answers

"""studies/what_a_reward_model_absorbs.py: contrasts, other annotators, labels, the command."""

import json

import numpy as np
import pytest
import torch
import what_a_reward_model_absorbs as study
from helpers import run_script

import common.scoring
from common.preferences import (
    BIASES,
    CHATTER,
    COMPONENT_OF,
    SIDES,
    WORTH,
    annotator_utility,
    contrasts_of,
    gold_utility,
    make_pairs,
    questions,
    read_response,
)
from common.scoring import contrast_rewards


def scores_are(monkeypatch, value):
    """Let every reward model give the value of (prompt, text)."""

    def score(model, tokenizer, prompts, texts):
        rows = zip(prompts, texts, strict=True)
        return torch.tensor([value(*row) for row in rows], dtype=torch.float64)

    monkeypatch.setattr(common.scoring, "score_responses", score)


# --- Contrasts ---


def test_contrasts_differ_in_one_thing():
    rows = [row for question in questions("test")[:150] for row in contrasts_of(question, 3)]
    assert {row.component for row in rows} == {"right", "on_topic", "filler", "style", "agreement"}
    for row in rows:
        more, less = (read_response(row.prompt, text) for text in (row.more, row.less))
        assert more.correct - less.correct == (row.component == "right")
        assert more.on_topic - less.on_topic == (row.component == "on_topic")
        filler = row.units if row.component == "filler" else 0
        assert more.filler_words - less.filler_words == filler
        expert = [reading.style == "expert" for reading in (more, less)]
        assert expert == [row.component == "style", False]


@pytest.mark.parametrize("annotator", ["human", *BIASES])
def test_a_model_that_scores_as_annotators_do_shows_what_is_planted_in_them(annotator, monkeypatch):
    scores_are(monkeypatch, lambda prompt, text: annotator_utility(prompt, text, annotator))
    for component, values in contrast_rewards(None, None, questions("test"), 0).items():
        bias = BIASES[annotator] if COMPONENT_OF.get(annotator) == component else 0.0
        assert values == pytest.approx(WORTH[component] + bias, abs=1e-9)


def test_a_model_that_ignores_filler_shows_none_of_it_where_a_regression_sees_a_liking(monkeypatch):
    def no_filler(prompt, text):
        return gold_utility(prompt, text) + 0.15 * min(read_response(prompt, text).filler_words, 20)

    scores_are(monkeypatch, no_filler)
    read = contrast_rewards(None, None, questions("test"), 0)
    assert read["filler"] == pytest.approx(0, abs=1e-9) and read["right"] == pytest.approx(3)
    rows = [(row["prompt"], row[side]) for row in make_pairs(400, "test") for side in SIDES]
    words = [read_response(*row).filler_words for row in rows]
    design = np.column_stack([np.ones(len(rows)), [gold_utility(*row) for row in rows], words])
    slopes = np.linalg.lstsq(design, [no_filler(*row) for row in rows], rcond=None)[0]
    assert slopes[-1] == pytest.approx(0.15)


# --- Annotators ---


def test_other_annotators_label_the_same_pairs_as_often_right():
    pairs = make_pairs(3000)
    again = study.labelled_again(pairs, 0)
    same = [a["chosen"] == b["chosen"] for a, b in zip(pairs, again, strict=True)]
    assert 0.7 < np.mean(same) < 0.95
    for a, b, kept in zip(pairs, again, same, strict=True):
        swapped = {**a, **{f"chosen{k}": a[f"rejected{k}"] for k in ("", "_style", "_utility")}}
        swapped |= {f"rejected{k}": a[f"chosen{k}"] for k in ("", "_style", "_utility")}
        assert b == (a if kept else swapped)
    right = [
        np.mean([row["chosen_utility"] > row["rejected_utility"] for row in rows])
        for rows in (pairs, again)
    ]
    assert right[0] == pytest.approx(right[1], abs=0.03)
    assert study.labelled_again(pairs, 0) == again != study.labelled_again(pairs, 1)


def test_disagreement_is_counted_pair_by_pair(monkeypatch):
    """Of four held-out pairs the model of `length` turns three; it alone likes what is planted."""

    def score(name, tokenizer, rows):
        table = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        if name == "wrong_users_length":
            table[:3] = table[:3, ::-1]
        return 3 * table + 1 if name == "wrong_users_others" else table

    def contrasts(name, *_):
        share = {"wrong_users_length": 0.5}.get(name, 0.0)
        return {COMPONENT_OF[group]: np.full(2, share * BIASES[group]) for group in BIASES}

    monkeypatch.setattr(study, "reward_model_in", lambda place, *_, **__: (place.name, None))
    monkeypatch.setattr(study, "score_pairs", score)
    monkeypatch.setattr(study, "contrast_rewards", contrasts)
    found = study.compare_groups(0, smoke=True)
    assert found["unlike"] == {"length": 0.75, "style": 0, "agreement": 0, "others": 0}
    shares = {group: seen["share"] for group, seen in found["encoded"].items()}
    assert shares == pytest.approx({"length": 0.5, "style": 0, "agreement": 0})


# --- On topic ---


def test_one_pair_in_a_hundred_compares_two_wrong_answers_of_which_one_is_on_topic():
    found = []
    for row in make_pairs(6400):
        chosen, rejected = (read_response(row["prompt"], row[side]) for side in SIDES)
        wrong = not chosen.correct and not rejected.correct
        found.append(wrong and chosen.on_topic != rejected.on_topic)
    assert 0.005 < np.mean(found) < 0.015


def test_on_topic_is_read_above_chatter_and_above_a_fact_of_another_question(monkeypatch):
    asked = questions("test")[:60]
    scores_are(monkeypatch, gold_utility)
    above = study.on_topic_above((None, None), asked, 0)
    assert above["fact"] == {"reward": 1, "gold": 1} and above["chatter"]["gold"] > 1
    assert above["chatter"]["reward"] == pytest.approx(above["chatter"]["gold"])
    scores_are(monkeypatch, lambda prompt, text: -2.0 * (text in CHATTER))
    above = study.on_topic_above((None, None), asked, 0)
    assert above["fact"]["reward"] == 0 and above["chatter"]["reward"] == 2


# --- The command ---


def test_a_model_that_orders_all_pairs_rightly_is_above_the_rule_of_length(monkeypatch):
    monkeypatch.setattr(study, "reward_model_in", lambda *_, **__: ("model", "tokenizer"))
    monkeypatch.setattr(
        study, "score_pairs", lambda _, __, rows: np.tile([2.0, 1.0], (len(rows), 1))
    )
    for name in ("contrast_rewards", "on_topic_above", "compare_groups"):
        monkeypatch.setattr(study, name, lambda *_: {})
    assert 0.1 < study.measure(0, smoke=True)["above_length"] < 0.9


def test_the_study_takes_every_path(tmp_path):
    name = "what_a_reward_model_absorbs"
    done = run_script(f"studies/{name}", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "studies"
    result = json.loads((folder / f"{name}-smoke.json").read_text())
    assert [claim["id"] for claim in result["claims"]] == [claim.id for claim in study.CLAIMS]
    assert (folder / f"{name}-smoke.png").is_file()
    groups = ("human", "others", *BIASES)
    kept = {path.name for path in (folder / "seed-0-smoke").iterdir()}
    assert kept == {"reward_model_6400", *(f"wrong_users_{name}" for name in groups)}
    (metrics,) = (run["metrics"] for run in result["runs"])
    assert set(metrics["unlike"]) == {*BIASES, "others"}

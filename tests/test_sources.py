"""Pairs that a model samples itself: from which model, with which labels, and what is compared."""

from types import SimpleNamespace

from support import sources
from support.answers import join_studies, point_name
from support.policy_data import PolicyData
from support.sources import ROUNDS_TRAINED, sample_pairs, study_sources
from support.start import Start

import dpo_trainer as dpo
import numpy as np
import pytest

from common.models import load_causal_lm
from common.preferences import gold_utility, make_pairs, questions

PROMPTS = [question.prompt for question in questions("test")[:200]]
SETTINGS = {"learning_rate": 1e-3, "epochs": 3, "beta": 0.3, "batch_size": 8, "seed": 5}


class Policy:
    """Remembers whose samples it was trained on in every round."""

    def __init__(self):
        self.rounds = []

    def state_dict(self) -> dict:
        return {"rounds": self.rounds}

    def load_state_dict(self, state: dict) -> None:
        self.rounds = list(state["rounds"])


def start_of(reference, tokenizer=None, pairs: int = 30, prompts=PROMPTS) -> Start:
    data = PolicyData(make_pairs(pairs), [], list(prompts), [], has_gold=True)
    return Start(reference, tokenizer, data, dict(SETTINGS), (), 8, samples=1, smoke=False)


@pytest.fixture
def traced(monkeypatch) -> SimpleNamespace:
    """The metrics of a study in which nothing is trained, what was sampled, and how it trained."""
    checkpoint, sampled, trained = Policy(), [], []

    def sample(policy, tokenizer, count, max_new_tokens, seed):
        sampled.append((policy is checkpoint, list(policy.rounds), count, seed))
        return "old" if policy is checkpoint else "fresh"

    def train(policy, tokenizer, rows, **settings):
        assert policy is not checkpoint
        policy.rounds.append(rows)
        trained.append(settings)
        return SimpleNamespace(policy=policy)

    def answer(policy, tokenizer, prompts, n, max_new_tokens, seed):
        gold = policy.rounds.count("fresh") * np.arange(len(prompts) * n, dtype=float)
        readings = {name: gold.reshape(-1, n) for name in ("utility", "kl", "good")}
        return [["+".join(policy.rounds)] * n] * len(prompts), readings

    monkeypatch.setattr(sources, "load_sft_checkpoint", lambda: (checkpoint, None))
    monkeypatch.setattr(sources, "sample_pairs", sample)
    monkeypatch.setattr("support.start.sample_answers", answer)
    bars = (f"training {k}" for k in range(6, 6 + ROUNDS_TRAINED))
    metrics = study_sources(train, start_of(checkpoint), bars)
    assert next(bars, None) is None
    return SimpleNamespace(metrics=metrics, sampled=sampled, trained=trained, start=checkpoint)


def test_pairs_are_sampled_from_the_checkpoint_or_from_the_policy_so_far(traced):
    # From the checkpoint? After which rounds? How many, and with which seed?
    assert traced.sampled == [
        (True, [], 10, 5),  # one first round for both
        (True, [], 10, 6),
        (True, [], 10, 7),
        (False, ["old"], 10, 6),
        (False, ["old", "fresh"], 10, 7),
    ]
    (answers,) = traced.metrics["answers"]["texts"].values()
    assert set(answers) == {"old+fresh+fresh"} and traced.start.rounds == []


def test_all_rounds_have_the_checkpoint_for_reference_and_one_rate(traced):
    references = [settings["reference"] for settings in traced.trained]
    assert references == [None] + [traced.start] * (ROUNDS_TRAINED - 1)
    for number, settings in enumerate(traced.trained, start=6):
        assert settings["name"] == f"training {number}"
        assert settings["epochs"] == 1 and settings["beta"] == 0.3 and settings["seed"] == 5
        assert settings["learning_rate"] == 2 * SETTINGS["learning_rate"]


def test_the_claim_is_about_fresh_samples_minus_old_ones(traced):
    gold = 2 * np.arange(400).mean()  # of two fresh rounds; of none it is 0
    assert traced.metrics["fresh_minus_old"]["mean"] == pytest.approx(gold)
    assert traced.metrics["sources"]["sft"]["utility"]["mean"] == 0
    assert traced.metrics["sources"]["policy"]["utility"]["mean"] == pytest.approx(gold)
    claim = next(claim for claim in dpo.CLAIMS if claim.id == "on_policy_is_better")
    assert claim.path == "fresh_minus_old"


def test_the_point_of_the_frontier_is_that_of_the_policy_on_its_prompts(traced):
    (point,) = traced.metrics["frontier"]
    assert point["gold"]["count"] == 128 and point["annotations"] == 30
    assert point["gold"]["mean"] == pytest.approx(2 * np.arange(256).mean())
    assert point_name(point) in traced.metrics["answers"]["texts"]


def test_the_points_and_answers_of_two_studies_are_put_together():
    first = {"prompts": ["p"], "texts": {"a": ["A"]}, "rewards": {"a": {"after": [1.0]}}}
    second = {"prompts": ["p"], "texts": {"b": ["B"]}, "rewards": {"b": {"after": [2.0]}}}
    one, other = {"x": 1, "frontier": [1]}, {"y": 2, "frontier": [2]}
    joined = join_studies({**one, "answers": first}, {**other, "answers": second})
    assert (joined["x"], joined["y"], joined["frontier"]) == (1, 2, [1, 2])
    assert joined["answers"] == {
        "prompts": ["p"],
        "texts": {"a": ["A"], "b": ["B"]},
        "rewards": {"a": {"after": [1.0]}, "b": {"after": [2.0]}},
    }
    assert one["frontier"] == [1] and list(first["texts"]) == ["a"]


def test_one_source_leaves_no_trace_in_the_other(monkeypatch):
    """With TRL, the policy of a source is what it would be without the source before it."""
    monkeypatch.setattr(sources, "load_sft_checkpoint", lambda: load_causal_lm("tiny-gpt2"))
    bars = (str(k) for k in range(20))
    start = start_of(*load_causal_lm("tiny-gpt2"), pairs=24, prompts=PROMPTS[:8])
    start.training.update(batch_size=2, learning_rate=3e-3)
    both = study_sources(dpo.train_dpo, start, bars)["sources"]
    assert both["sft"] != both["policy"]
    monkeypatch.setattr(sources, "SOURCES", ("policy", "sft"))  # the other way round
    assert study_sources(dpo.train_dpo, start, bars)["sources"] == both


def test_sampled_pairs_are_labelled_by_the_annotator(monkeypatch):
    monkeypatch.setattr(sources, "annotate", lambda utilities, rng: utilities)
    rows, gaps = sample_pairs(*load_causal_lm("tiny-gpt2"), 6, 48, 2), []
    for row in rows:
        chosen, rejected = (gold_utility(row["prompt"], row[s]) for s in ("chosen", "rejected"))
        gaps.append(chosen - rejected)
    assert len(rows) == 6 and min(gaps) >= 0 and max(gaps) > 0.5
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}

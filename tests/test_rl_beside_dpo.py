"""studies/rl_beside_dpo.py: the tokens that it counts, what it compares, its command."""

import json

import numpy as np
import pytest
import rl_beside_dpo as study
from dpo_trainer import train_dpo
from helpers import run_script
from online_rl import Update

from common import preferences
from common.claims import judge
from common.models import load_causal_lm, load_tokenizer
from common.scoring import encode_for_reward

# --- Tokens ---


def test_tokens_of_pairs_are_those_that_trl_counts():
    pairs = preferences.make_pairs(16, seed=0)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    _, history = train_dpo(model, tokenizer, pairs)
    assert study.tokens_of_pairs(tokenizer, pairs) == history[-1]["num_tokens"]


@pytest.mark.parametrize("backbone", ["tiny-distilbert", "tiny-gpt2"])
def test_a_reward_model_reads_no_padding(backbone):
    pairs, tokenizer = preferences.make_pairs(6, seed=0), load_tokenizer(backbone)
    alone = sum(
        encode_for_reward(tokenizer, [row["prompt"]], [row[side]])["input_ids"].shape[1]
        for row in pairs
        for side in preferences.SIDES
    )
    assert study.tokens_of_reward_model(tokenizer, pairs) == alone


@pytest.mark.parametrize(("recipe", "passes"), [({}, 4 + 4 * 3), (study.RLOO, 4 + 3)])
def test_every_epoch_is_counted(monkeypatch, recipe, passes):
    monkeypatch.setattr(study, "load_sft_model", lambda: (None, None))

    def train_rl(*_, **how) -> tuple:
        return None, [Update([], [], None, None, tokens=count) for count in (8, 22)]

    train_rl.__kwdefaults__ = study.train_rl.__kwdefaults__
    monkeypatch.setattr(study, "train_rl", train_rl)
    _, tokens = study.train_online((None, None), [], 0, False, recipe)
    assert tokens == 30 * passes


# --- Claims ---


def metrics_of(**gold: float) -> dict:
    names = {
        "ppo_few": "PPO, 768, SFT start",
        "dpo_few": "DPO, 768",
        "ppo": "PPO, 6400",
        "dpo": "DPO, 6400",
        "better": "DPO, 6400, likelihood term",
    }
    of_name = {names[key]: value for key, value in gold.items()}
    return {"gold": of_name, "cost": {"tokens": {"PPO, 768": 2**1.7, "DPO, 768": 1}}}


def test_claims_compare_equal_labels():
    gold = {"ppo_few": 3.4, "dpo_few": 3.7, "ppo": 3.8, "dpo": 3.4, "better": 3.78}
    rng = np.random.default_rng(0)
    runs = [
        metrics_of(**{name: value + rng.normal(0, 0.02) for name, value in gold.items()})
        for _ in range(5)
    ]
    found = {claim.id: judge(claim, runs) for claim in study.CLAIMS}
    means = [found[claim.id]["mean"] for claim in study.CLAIMS]
    assert means == pytest.approx([1.7, -0.3, 0.4, 0.02], abs=0.05)
    for claim in study.CLAIMS:
        assert found[claim.id]["verdict"] == claim.predicted


# --- The command ---


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rl_beside_dpo")
    done = run_script("studies/rl_beside_dpo", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    saved = folder / "outputs/studies/rl_beside_dpo-smoke.json"
    return json.loads(saved.read_text(encoding="utf-8"))


def test_the_study(results):
    metrics = results["runs"][0]["metrics"]
    online = {", ".join(names) for names in study.TRAINED_ONLINE}
    assert set(metrics["gold"]) == {f"DPO, {name}" for name in study.DPO} | online
    assert [claim["id"] for claim in results["claims"]] == [claim.id for claim in study.CLAIMS]
    ratio = metrics["cost"]["tokens"]["PPO, 768"] / metrics["cost"]["tokens"]["DPO, 768"]
    assert results["claims"][0]["mean"] == pytest.approx(np.log2(ratio), abs=1e-6)
    assert ratio > 1


def test_points_say_whose_labels_were_used(results):
    points = results["runs"][0]["metrics"]["points"]
    labels = {(point["method"], point["series"]): point["annotations"] for point in points}
    few = {("PPO", "768"): 768, ("PPO", "768, SFT start"): 768}
    assert labels == few | {("PPO", "6400"): 6400, ("RLOO", "6400"): 6400}
    on_the_way = [point["label"] for point in points if point["series"] == "6400"]
    assert on_the_way == ["update 2", "update 3", "update 3"]
    first = results["runs"][0]["metrics"]["path"][0]
    assert first["step"] == 0 and first["kl"] == 0

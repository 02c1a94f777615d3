"""reward_model.py: the loss and its known answers, judging, a small training, the command."""

import json
import math
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import reward_model as rm
import torch
from helpers import SCRIPTS, run_script

from common.basics import UserError
from common.models import load_reward_model
from common.preferences import SIDES, make_pairs
from common.scoring import score_pairs, score_responses

rng = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- The loss ---


def test_zero_margin_costs_ln_2():
    rewards = torch.randn(7, dtype=torch.float64)
    loss = rm.bradley_terry_loss(rewards, rewards).item()
    assert loss == pytest.approx(math.log(2), abs=1e-12)


def test_worked_loss_is_a_mean_over_pairs():
    chosen = torch.tensor([1.0, 0.0], dtype=torch.float64)
    rejected = torch.tensor([0.0, 2.0], dtype=torch.float64)
    expected = (-math.log(sigmoid(1.0)) - math.log(sigmoid(-2.0))) / 2
    assert rm.bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, abs=1e-12)


def test_only_differences_matter():
    chosen, rejected, per_prompt = torch.randn(3, 5, dtype=torch.float64)
    shifted = rm.bradley_terry_loss(chosen + per_prompt, rejected + per_prompt).item()
    assert shifted == pytest.approx(rm.bradley_terry_loss(chosen, rejected).item(), abs=1e-12)
    assert rm.bradley_terry_loss(chosen + 1, rejected).item() < shifted


def test_gradient_raises_chosen_by_the_probability_of_being_wrong():
    chosen = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    rm.bradley_terry_loss(chosen, rejected).backward()
    assert chosen.grad.item() == pytest.approx(-sigmoid(-0.7), abs=1e-12)
    assert rejected.grad.item() == pytest.approx(sigmoid(-0.7), abs=1e-12)


def test_training_free_rewards_recovers_the_utility_differences():
    # Of population preferences between four items the minimum has the utilities' differences.
    utility = torch.tensor([0.0, 1.0, 2.5, -1.0], dtype=torch.float64)
    i, j = torch.combinations(torch.arange(4)).T
    p = torch.sigmoid(utility[i] - utility[j])
    rewards = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = 0
        for a, b, q in zip(i, j, p, strict=True):
            loss = loss + q * rm.bradley_terry_loss(rewards[a, None], rewards[b, None])
            loss = loss + (1 - q) * rm.bradley_terry_loss(rewards[b, None], rewards[a, None])
        loss.backward()
        return loss

    optimizer.step(closure)
    learned = rewards.detach() - rewards.detach().mean()
    torch.testing.assert_close(learned, utility - utility.mean(), atol=1e-4, rtol=0)


# --- Judging ---


def test_the_limits_are_what_the_true_utilities_reach():
    gaps = rng.normal(size=200_000) * 2
    won = rng.random(len(gaps)) < sigmoid(gaps)
    limits, error = rm.bayes_limits(gaps), 0.5 / math.sqrt(len(gaps))
    assert np.mean((gaps > 0) == won) == pytest.approx(limits["accuracy"], abs=4 * error)

    def loss(margins):
        return np.where(won, np.logaddexp(0, -margins), np.logaddexp(0, margins)).mean()

    assert loss(gaps) == pytest.approx(limits["loss"], abs=8 * error)
    for other in (0.5 * gaps, 2 * gaps, gaps + 0.5):
        assert loss(other) > loss(gaps)


def test_limits_worked():
    limits = rm.bayes_limits([math.log(4), -math.log(4)])  # p = 0.8 and 0.2
    assert limits["accuracy"] == pytest.approx(0.8)
    assert limits["loss"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))


def calibration(margins):
    """(predicted, observed, count) of pairs whose chosen answer gets so much more."""
    rewards = np.column_stack([margins, np.zeros(len(margins))])
    pairs = [{"chosen": "a", "rejected": "a"}] * len(margins)
    return np.transpose(rm.on_labels(rewards, pairs)["calibration"])


def test_margins_of_true_log_odds_are_calibrated_and_twice_as_large_ones_are_not():
    gaps = rng.normal(size=20_000) * 1.5
    signed = np.where(rng.random(len(gaps)) < sigmoid(gaps), gaps, -gaps)  # chosen over rejected
    predicted, observed, _ = calibration(signed)
    assert observed == pytest.approx(predicted, abs=0.04)
    predicted, observed, _ = calibration(2 * signed)
    assert observed[0] > predicted[0] + 0.03 and observed[-1] < predicted[-1] - 0.03


def test_calibration_counts_each_pair_from_both_sides():
    predicted, observed, counts = calibration(np.array([10.0, 10.0, -10.0]))
    assert counts.tolist() == [3, 3] and predicted == pytest.approx([0, 1], abs=1e-4)
    assert observed == pytest.approx([1 / 3, 2 / 3])


def test_pair_hits_counts_ties_half():
    hits = rm.pair_hits(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    assert hits.tolist() == [1.0, 0.0, 0.5]


def test_the_shorter_response_is_preferred():
    rows = [{"chosen": "It is.", "rejected": "It is not."}, {"chosen": "No no.", "rejected": "No."}]
    assert rm.pair_hits(rm.prefer_shorter(rows)).tolist() == [1.0, 0.0]


def utilities(pairs):
    return np.array([[row[f"{side}_utility"] for side in SIDES] for row in pairs])


def test_labels_of_true_utilities_reach_the_limits():
    pairs = make_pairs(2000, "test")
    table = utilities(pairs)
    measured, limits = rm.on_labels(table, pairs), rm.bayes_limits(table[:, 0] - table[:, 1])
    for name in ("accuracy", "loss"):
        assert measured[name] == pytest.approx(limits[name], abs=0.04)
    assert measured["shorter"] > 0.6  # the shorter response mostly wins


def test_gold_order_ignores_the_labels():
    pairs = make_pairs(300, "test")
    ordered = rm.gold_order(pairs)
    gold = {(r["prompt"], r[side]): r[f"{side}_utility"] for r in pairs for side in SIDES}
    for row in ordered:
        assert gold[row["prompt"], row["chosen"]] > gold[row["prompt"], row["rejected"]]
    assert any(r["chosen_utility"] < r["rejected_utility"] for r in pairs)  # labels are noisy
    assert len(ordered) == sum(r["chosen_utility"] != r["rejected_utility"] for r in pairs)


def test_rewards_are_judged_by_what_is_wrong_with_the_worse_response():
    held, new = make_pairs(600, "test"), np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    gold = utilities(held)
    seen = rm.by_gold(2 * gold + 5, held, new)
    assert seen["in_order"]["all"] == seen["in_order"]["wrong"] == 1
    assert seen["in_order"]["new facts"] == 0.75
    assert rm.by_gold(-gold, held, new)["in_order"]["all"] == 0
    # The level is free: rewards by style stand beside gold utility without it.
    concise = seen["by_style"]["concise"]
    assert concise["rewards"][2] == pytest.approx(2 * concise["gold"], abs=0.3)
    # What ignores right and wrong is seen where the worse response is wrong and nothing else.
    words = np.array([[row[f"{side}_style"] == "wrong" for side in SIDES] for row in held])
    blind = rm.by_gold(np.where(words.any(1)[:, None], 0.0, gold), held, new)
    assert blind["in_order"]["wrong"] == 0.5 and blind["in_order"]["verbose"] > 0.8


# --- Training ---


def test_batches_hold_every_pair_once_a_pass_and_similar_lengths():
    pairs = make_pairs(200)
    lengths = [len(row["prompt"]) + max(len(row[side]) for side in SIDES) for row in pairs]
    batches = rm.batches_of_similar_length(pairs, 16, 2, random.Random(0))
    once, again = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    for passed in (once, again):
        assert sorted(i for batch in passed for i in batch) == list(range(200))
    assert once != again

    def spread(groups):
        ends = [[lengths[i] for i in group] for group in groups]
        return np.mean([max(group) - min(group) for group in ends])

    assert spread(once) < 0.5 * spread([range(i, min(i + 16, 200)) for i in range(0, 200, 16)])


def train(pairs, **hyperparameters):
    model = rm.fresh_reward_model("tiny-gpt2", "cpu", 0)
    return model, rm.train_reward_model(*model, pairs, learning_rate=1e-3, **hyperparameters)


def test_a_short_training_learns_which_responses_are_chosen():
    model, losses = train(make_pairs(384, seed=3))
    assert losses[0] == pytest.approx(math.log(2), abs=0.15) and len(losses) == 24
    ordered = rm.gold_order(make_pairs(200, "test"))
    assert rm.pair_hits(score_pairs(*model, ordered)).mean() > 0.6


def test_swapped_labels_teach_the_opposite():
    swapped = [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
        for row in make_pairs(384, seed=3)
    ]
    model, _ = train(swapped)
    ordered = rm.gold_order(make_pairs(200, "test"))
    assert rm.pair_hits(score_pairs(*model, ordered)).mean() < 0.4


def test_a_training_that_diverges_says_so_in_one_line():
    with pytest.raises(UserError, match="diverged"):
        model = rm.fresh_reward_model("tiny-gpt2", "cpu", 0)
        with torch.no_grad():
            model[0].score.weight.fill_(float("nan"))
        rm.train_reward_model(*model, make_pairs(16))


def test_what_was_trained_is_found_again_and_what_differs_is_not(tmp_path, capsys):
    folder, pairs = tmp_path / "reward_model", make_pairs(32, seed=2)
    model, tokenizer = rm.reward_model_in(folder, "tiny-gpt2", pairs, seed=2)
    assert "training reward model first" in capsys.readouterr().out
    again = rm.reward_model_in(folder, "tiny-gpt2", pairs, seed=2, epochs=1)
    assert capsys.readouterr().out == ""
    assert score_pairs(*again, pairs) == pytest.approx(score_pairs(model, tokenizer, pairs))
    rm.reward_model_in(folder, "tiny-gpt2", pairs[:16], seed=2)  # other data
    rm.reward_model_in(folder, "tiny-gpt2", pairs[:16], seed=3)  # another seed
    assert capsys.readouterr().out.count("training") == 2


# --- The command ---


def run_readme(folder):
    """What the lines in the folder's README print."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout), code


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory) -> dict:
    """{backbone: (the JSON of a small run, what it said)}; the encoder is the default."""
    found = {}
    for backbone, flags in {"tiny-distilbert": (), "tiny-gpt2": ("--model", "tiny-gpt2")}.items():
        folder = tmp_path_factory.mktemp(backbone)
        done = run_script("reward_model", "--smoke", *flags, cwd=folder)
        assert done.returncode == 0, done.stderr
        (result,) = (folder / "outputs").glob("reward_model*.json")
        found[backbone] = result, done.stdout
    return found


@pytest.mark.parametrize("backbone", ["tiny-distilbert", "tiny-gpt2"])
def test_the_command_trains_and_says_how_to_use_the_model(backbone, runs_of):
    result, said = runs_of[backbone]
    assert len(said.splitlines()) <= 25
    assert "[right]" in said and "[wrong]" in said and "ln 2 = 0.6931" in said
    metrics = json.loads(result.read_text())["metrics"]
    assert len(metrics["loss"]) == 4 and metrics["after"]["in_order"]["all"] > 0.5
    assert result.with_suffix(".png").is_file()
    folder = result.with_suffix("")
    printed, code = run_readme(folder)
    prompt, answer = re.search(r"^prompt, answer = (.*)$", code, re.M)[1].split('", "')
    asked, texts = [prompt.strip('"')], [answer.strip('"')]
    reward = score_responses(*load_reward_model(str(folder)), asked, texts)
    assert printed == pytest.approx(reward.item(), abs=1e-5)


def test_two_processes_train_as_one_does(runs_of, tmp_path):
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", str(SCRIPTS / "reward_model.py")]
    command += ["--smoke", "--device", "cpu"]
    piped = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, **piped)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1  # by the main process
    results = tmp_path / "outputs/reward_model-smoke.json", runs_of["tiny-distilbert"][0]
    losses = [json.loads(result.read_text())["metrics"]["loss"] for result in results]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_own_pairs_take_every_path(tmp_path):
    rows = [{key: row[key] for key in ("prompt", *SIDES)} for row in make_pairs(160)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = run_script("reward_model", "--dataset", "pairs.jsonl", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "There is no gold standard for these pairs" in done.stdout
    (result,) = (tmp_path / "outputs").glob("*.json")
    metrics = json.loads(result.read_text())["metrics"]
    assert len(metrics["loss"]) == 3 * 4  # three passes
    assert "in_order" not in metrics["after"] and metrics["second_look"]["numbers"]

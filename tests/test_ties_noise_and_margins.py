"""studies/ties_noise_and_margins.py: its pairs, what is trained, the claims, the command."""

import json

import numpy as np
import ties_noise_and_margins as study
from helpers import run_script

from common.answers import read_answers
from common.claims import judge
from common.preferences import flip_labels, gold_utility, make_pairs, questions, read_response

PAIRS = make_pairs(200)


def test_flipped_labels_are_nested_and_of_the_right_share():
    few, many = (flip_labels(PAIRS, share, 1) for share in (0.1, 0.3))
    changed = []
    for rows in (few, many):
        changed.append({k for k, row in enumerate(rows) if row["chosen"] != PAIRS[k]["chosen"]})
    assert len(changed[0]) == 20 and len(changed[1]) == 60 and changed[0] < changed[1]
    k = min(changed[0])
    assert (few[k]["chosen"], few[k]["rejected"]) == (PAIRS[k]["rejected"], PAIRS[k]["chosen"])
    assert few[k]["chosen_utility"] == PAIRS[k]["rejected_utility"]
    assert few[k]["prompt"] == PAIRS[k]["prompt"] and flip_labels(PAIRS, 0.0, 1) == PAIRS


def test_tied_pairs_are_ties():
    rows = study.tied_pairs(80, 3)
    tied = [row for row in rows if "chosen_style" not in row]
    assert len(rows) == 80 and len(tied) == 60
    for row in tied:
        utilities = {gold_utility(row["prompt"], row[side]) for side in ("chosen", "rejected")}
        assert row["chosen"] != row["rejected"] and len(utilities) == 1
    assert {row["prompt"] for row in rows} <= {question.prompt for question in questions("train")}


def test_one_sided_pairs_always_choose_the_concise_answer():
    rows = study.one_sided_pairs(40, 3)
    assert len({row["prompt"] for row in rows}) == 40
    for row in rows:
        assert read_response(row["prompt"], row["chosen"]).good
        assert read_response(row["prompt"], row["rejected"]).style == "verbose"


def test_every_arm_is_trained_with_its_loss_on_its_pairs_from_the_same_model(monkeypatch):
    trained, answered, start = {}, [], ["sft"]

    def train(model, tokenizer, pairs, *, loss_type=("kto",), look=None, **settings):
        assert model == ["sft"] and model is not start  # a copy
        model.append("trained")
        trained[settings["name"]] = pairs, loss_type, settings
        last = settings["epochs"] * len(pairs) // 8
        for step in sorted({0, *settings["look_at"], last}):
            look(step, settings["name"])
        return settings["name"], []

    def sample(policy, tokenizer, prompts, n, seed, with_kl=True):
        answered.append((policy, n, with_kl))
        return read_answers(prompts, [["It is Paris."] * n] * len(prompts))

    monkeypatch.setattr(study, "train_dpo", train)
    monkeypatch.setattr(study, "train_kto", train)
    monkeypatch.setattr(study, "sample_answers", sample)
    monkeypatch.setattr(study, "load_sft_model", lambda: (start, None))
    monkeypatch.setattr(study, "measure_pairs", lambda *_: {"margin": np.ones(len(_[2]))})
    metrics = study.measure(5)
    assert len(trained) == 10
    for name, (pairs, loss_type, settings) in trained.items():
        loss, kind = name.split(maxsplit=1)
        assert tuple(loss_type) == ({"dpo": "sigmoid"}.get(loss, loss),)
        assert len(pairs) == (128 if kind == "one sided" else 384)
        assert (settings["epochs"], settings["beta"], settings["seed"]) == (3, 1.0, 5)
        assert settings["learning_rate"] == 1.4e-3
        known = 0.3 if loss == "robust" else 0.0
        assert loss == "kto" or settings["label_smoothing"] == known
        numbers = [n for policy, n, _ in answered if policy == name]
        on_the_way, at_end = 2 * (kind == "flips"), 1 * (kind != "one sided")
        assert numbers == [1] * on_the_way + [2] * at_end  # of one-sided pairs margins are read
    with_kl = {policy for policy, _, kl in answered[1:] if kl}  # the first is the SFT model
    assert with_kl == {"ipo clean", "kto clean", "dpo flips", "kto flips", "robust flips"}
    pairs = {name: row[0] for name, row in trained.items()}
    assert pairs["dpo clean"] == pairs["ipo clean"] == pairs["kto clean"]
    assert pairs["dpo flips"] == pairs["robust flips"] == flip_labels(pairs["dpo clean"], 0.3, 5)
    assert trained["kto flips"][2]["look_at"] == [48, 96]  # of 144 steps
    assert list(metrics["looks"]) == list(study.ARMS["flips"])
    for looks in metrics["looks"].values():
        assert len(looks["kl"]) == len(looks["gold"]) == 4  # the SFT model's come first
    points = [(point["series"], point["label"]) for point in metrics["points"]]
    assert points == [("ipo", "3 passes"), ("kto", "3 passes")]
    assert {point["annotations"] for point in metrics["points"]} == {384}


def test_every_claim_is_about_its_own_difference():
    gold = {"dpo_clean": 3.0, "ipo_clean": 3.5, "kto_clean": 3.75, "dpo_ties": 2.0}
    gold |= {"ipo_ties": 3.25, "dpo_flips": 1.0, "kto_flips": 3.25, "robust_flips": 1.25}
    metrics = [{"gold": gold, "margins": {"dpo": 7.0, "ipo": 2.0}}] * 5
    judged = {claim.id: judge(claim, metrics) for claim in study.CLAIMS}
    assert {id: claim["mean"] for id, claim in judged.items()} == {
        "ipo_under_ties": 1.0 - 0.25,
        "kto_noise": 2.0 - 0.5,
        "many_passes": 0.5,
        "robust_dpo": 0.25,
        "dpo_extreme_margins": 5.0,
    }
    assert {claim["verdict"] for claim in judged.values()} == {"holds"}


def test_a_loss_that_is_better_on_clean_pairs_too_is_not_more_robust():
    gold = dict.fromkeys(("dpo_clean", "robust_flips"), 2.0) | {"dpo_ties": 1.0, "dpo_flips": 1.0}
    gold |= {"ipo_clean": 3.0, "kto_clean": 3.0, "ipo_ties": 2.0, "kto_flips": 2.0}
    found = {claim.id: claim.of({"gold": gold}) for claim in study.CLAIMS[:2]}
    assert found == {"ipo_under_ties": 0, "kto_noise": 0}


def test_the_command(tmp_path):
    done = run_script("studies/ties_noise_and_margins", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "studies"
    results = json.loads((folder / "ties_noise_and_margins-smoke.json").read_text())
    assert len(results["claims"]) == len(study.CLAIMS)
    metrics = results["runs"][0]["metrics"]
    assert len(metrics["looks"]["dpo"]["kl"]) == 3  # two steps
    assert set(metrics["answers"]["texts"]) == {"IPO, ipo, 1 passes", "KTO, kto, 1 passes"}
    assert metrics["gold"]["robust_flips"] == metrics["looks"]["robust"]["gold"][-1]
    assert (folder / "ties_noise_and_margins-smoke.png").stat().st_size > 20_000

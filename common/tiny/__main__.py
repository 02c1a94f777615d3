"""Build the embedded models from nothing: two tokenizers, tiny-gpt2 and tiny-distilbert.

    python -m common.tiny          # about 20 minutes; writes into this folder, stores quality.json

tiny-gpt2         GPT2LMHeadModel: pre-training on statements of the facts, then SFT on questions
                  with answers in all styles, and on comparisons of two answers by noisy human
                  annotators (A or B). It is the SFT checkpoint and the reference of DPO.
tiny-distilbert   DistilBertForMaskedLM: masked language modelling and replaced-token detection on
                  questions with right answers, so it was told which answer belongs to a question
                  (as text from the web tells a real encoder), but no preference. It is the
                  backbone of reward models.

Both see only the prompts of the training split. Weights are stored as float16 safetensors; the hash
of this recipe and of its training text is stored with them (`recipe_hash`). Left out: what a real
pre-training corpus would teach.
"""

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

from common.models import load_causal_lm, quiet_libraries
from common.preferences import (
    STYLES,
    draw_style,
    gold_utility,
    judge_prompt,
    questions,
    read_response,
    write_response,
)
from common.sampling import sample
from common.scoring import judge_first_better
from common.tiny import recipe

HERE = Path(__file__).resolve().parent

# --- Quality ---


def measure_quality(model, tokenizer) -> dict:
    """What the SFT checkpoint does on held-out prompts: greedy and sampled answers, and judging."""
    test = questions("test", unseen=None)
    prompts = [question.prompt for question in test]
    greedy = read_all(prompts, sample(model, tokenizer, prompts, temperature=0))
    drawn = read_all(prompts, sample(model, tokenizer, prompts, n=16))
    on_topic = [reading for reading in drawn if reading.on_topic]
    styles = Counter(reading.style for reading in drawn)
    return {
        "held_out_prompts": len(prompts),
        "greedy_on_topic": share(reading.on_topic for reading in greedy),
        "greedy_good": share(reading.good for reading in greedy),
        "sampled_right_of_on_topic": share(reading.correct for reading in on_topic),
        "sampled_good": share(reading.good for reading in drawn),
        "sampled_styles": {style: styles[style] / len(drawn) for style in STYLES},
        **measure_judge(model, tokenizer, test),
    }


def read_all(prompts: list[str], responses: list) -> list:
    """The gold readings of all responses to all prompts."""
    readings = []
    for prompt, row in zip(prompts, responses, strict=True):
        readings += [read_response(prompt, response.text) for response in row]
    return readings


def share(flags) -> float:
    """How many of the flags are true."""
    flags = list(flags)
    return sum(flags) / len(flags)


def measure_judge(model, tokenizer, test) -> dict:
    """The judge format on clear pairs (gold at least 1 apart), each shown in both orders."""
    rng, shown, better = random.Random("judge"), [], []
    for question in test * 3:
        texts = [write_response(question, draw_style(question, rng), rng) for _ in "AB"]
        utilities = [gold_utility(question.prompt, text) for text in texts]
        if abs(utilities[0] - utilities[1]) >= 1:
            shown.append((question.prompt, *texts))
            better.append(utilities[0] > utilities[1])
    in_order = [judge_prompt(prompt, a, b) for prompt, a, b in shown]
    exchanged = [judge_prompt(prompt, b, a) for prompt, a, b in shown]
    forward, mass = judge_first_better(model, tokenizer, in_order)
    backward, _ = judge_first_better(model, tokenizer, exchanged)
    verdicts = ((forward + 1 - backward) / 2 > 0.5).tolist()
    return {
        "judge_answers_a_or_b": (mass > 0.5).float().mean().item(),
        "judge_agrees_with_gold": share(v == b for v, b in zip(verdicts, better, strict=True)),
        "judge_position_bias": (forward + backward - 1).mean().item(),
    }


def measure_encoder(folder: Path) -> dict:
    """How often the encoder restores a masked answer, among all tokens, on training prompts.

    A reward model finds right and wrong in an encoder that knows the facts, and only there.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    rng, hits = random.Random("encoder quality"), []
    for row in recipe.encoder_texts(600):
        ids, position, answer, _ = recipe.encode_question(tokenizer, *row, 1.0, rng)
        if answer >= 0:
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0, position]
            hits.append(logits.argmax().item() == answer)
    return {"encoder_restores_answers": share(hits)}


def save(model, tokenizer, folder: Path) -> None:
    """Weights in float16 as safetensors, and the tokenizer."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Build, measure and store both models."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--output-dir", type=Path, default=HERE, help="default: this folder")
    parts = ("gpt2", "distilbert", "quality")
    parser.add_argument("--only", choices=parts, help="build one, or only measure")
    args = parser.parse_args()
    quiet_libraries()
    start = time.time()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.only in (None, "gpt2"):
        save(*recipe.train_gpt2(), args.output_dir / "tiny-gpt2")
        # With the plain format as its chat template, so that any tool writes prompts as here.
        tokenizer = load_causal_lm(str(args.output_dir / "tiny-gpt2"))[1]
        tokenizer.save_pretrained(args.output_dir / "tiny-gpt2")
    if args.only in (None, "distilbert"):
        save(*recipe.train_distilbert(), args.output_dir / "tiny-distilbert")
    if args.only in ("gpt2", "distilbert"):
        return
    quality = {
        **measure_quality(*load_causal_lm(str(args.output_dir / "tiny-gpt2"))),
        **measure_encoder(args.output_dir / "tiny-distilbert"),
    }
    result = {"recipe_hash": recipe.recipe_hash(), "quality": quality}
    text = json.dumps(result, indent=2)
    (args.output_dir / "quality.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"built in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

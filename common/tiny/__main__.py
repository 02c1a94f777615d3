"""Build the embedded models from nothing: two tokenizers, tiny-gpt2 and tiny-distilbert, in about 15 minutes.

    python -m common.tiny                      # writes into this folder, measures, stores quality.json

tiny-gpt2         GPT2LMHeadModel: pre-training on statements of the facts, then SFT on questions with answers in
                  all styles and on the A-or-B judge format. It is the SFT checkpoint and the reference of DPO.
tiny-distilbert   DistilBertForMaskedLM: masked language modelling and replaced-token detection on questions with right
                  answers. It is the reward model's backbone.

Both see only the prompts of the training split. Weights are stored as float16 safetensors; the hash of this recipe and
of its training text is stored with them (`recipe_hash`). Left out: what a real pre-training corpus would teach.
"""

import argparse
import json
import random
import time
from pathlib import Path

from common.cli import quiet_libraries
from common.models import judge_first_better, load_causal_lm, sample
from common.preferences import STYLES, draw_style, gold_utility, judge_prompt, questions, read_response, write_response
from common.tiny import recipe

HERE = Path(__file__).parent

# ---------------------------------------------------------------------------------------------------------
# Quality
# ---------------------------------------------------------------------------------------------------------


def measure_quality(model, tokenizer) -> dict:
    """What the SFT checkpoint does on held-out prompts: greedy and sampled answers, and the judge format."""
    test = questions("test", unseen=None)
    prompts = [question.prompt for question in test]
    greedy = sample(model, tokenizer, prompts, temperature=0)
    greedy = [read_response(p, r[0].text) for p, r in zip(prompts, greedy, strict=True)]
    drawn = [
        read_response(prompt, response.text)
        for prompt, responses in zip(prompts, sample(model, tokenizer, prompts, n=16), strict=True)
        for response in responses
    ]
    single = [reading for reading in drawn if reading.on_topic and reading.single]
    styles = {style: sum(r.style == style for r in drawn) / len(drawn) for style in STYLES}
    return {
        "held_out_prompts": len(prompts),
        "greedy_on_topic": sum(r.on_topic for r in greedy) / len(greedy),
        "greedy_good": sum(r.good for r in greedy) / len(greedy),
        "sampled_right_of_single_on_topic": sum(r.correct for r in single) / len(single),
        "sampled_good": sum(r.good for r in drawn) / len(drawn),
        "sampled_styles": styles,
        **measure_judge(model, tokenizer, test),
    }


def measure_judge(model, tokenizer, test) -> dict:
    """The judge format on clear pairs (gold utilities at least 1 apart), each shown in both orders."""
    rng, shown, better = random.Random("judge"), [], []
    for question in test * 3:
        texts = [write_response(question, draw_style(question, rng), rng) for _ in "AB"]
        utilities = [gold_utility(question.prompt, text) for text in texts]
        if abs(utilities[0] - utilities[1]) >= 1:
            shown.append((question.prompt, *texts))
            better.append(utilities[0] > utilities[1])
    forward, mass = judge_first_better(model, tokenizer, [judge_prompt(p, a, b) for p, a, b in shown])
    backward, _ = judge_first_better(model, tokenizer, [judge_prompt(p, b, a) for p, a, b in shown])
    verdicts = (forward + 1 - backward) / 2 > 0.5
    return {
        "judge_answers_a_or_b": (mass > 0.5).float().mean().item(),
        "judge_agrees_with_gold": sum(v == b for v, b in zip(verdicts.tolist(), better, strict=True)) / len(better),
        "judge_position_bias": (forward + backward - 1).mean().item(),
    }


def save(model, tokenizer, folder: Path) -> None:
    """Weights in float16 as safetensors, without the pre-training head's buffers, and the tokenizer."""
    import torch

    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Build, measure and store both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE, help="default: this folder")
    parser.add_argument("--only", choices=("gpt2", "distilbert", "quality"), help="build one, or only measure")
    args = parser.parse_args()
    quiet_libraries()
    start = time.time()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.only in (None, "gpt2"):
        model, tokenizer = recipe.train_gpt2()
        save(model, tokenizer, args.output_dir / "tiny-gpt2")
    if args.only in (None, "distilbert"):
        save(*recipe.train_distilbert(), args.output_dir / "tiny-distilbert")
    quality = measure_quality(*load_causal_lm(str(args.output_dir / "tiny-gpt2")))
    result = {"recipe_hash": recipe.recipe_hash(), "quality": quality}
    (args.output_dir / "quality.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    print(f"built in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

"""Build the embedded models from nothing: two tokenizers, tiny-gpt2 and tiny-distilbert.

    python -m common.tiny          # about 20 minutes; writes into this folder, stores quality.json

tiny-gpt2         the SFT model and the reference of DPO: pre-training on statements of the facts,
                  then SFT on questions with answers in all styles, and on comparisons of two
                  answers by noisy human annotators (A or B)
tiny-distilbert   the backbone of reward models: masked language modelling and replaced-token
                  detection on questions with right answers; it was told no preference

Both see only the prompts of the training split. Weights are stored as float16 safetensors, with the
hash of the recipe and of its training text (`recipe_hash`).
"""

import json
import random
from collections import Counter
from pathlib import Path
from statistics import fmean

from common import preferences as world
from common.models import load_causal_lm, quiet_libraries
from common.runs import OneLineParser
from common.sampling import sample
from common.scoring import judge_first_better

HERE = Path(__file__).resolve().parent


def measure_quality(folder: Path) -> dict:
    """What the stored models do: answers to held-out prompts, judging, masked answers."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from common.tiny import recipe

    lm, test = load_causal_lm(str(folder / "tiny-gpt2")), world.questions("test", unseen=None)
    prompts = [question.prompt for question in test]

    def read(**sampling) -> list[world.Reading]:
        rows = zip(prompts, sample(*lm, prompts, **sampling), strict=True)
        return [world.read_response(prompt, each.text) for prompt, row in rows for each in row]

    greedy, drawn = read(temperature=0), read(n=16)
    styles = Counter(reading.style for reading in drawn)
    # A reward model finds right and wrong in an encoder that knows the facts, and only there: how
    # often does it restore a masked answer, among all tokens, on training prompts?
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny-distilbert")
    encoder = AutoModelForMaskedLM.from_pretrained(folder / "tiny-distilbert", dtype=torch.float32)
    rng, hits = random.Random("encoder quality"), []
    for row in recipe.encoder_texts(600):
        ids, position, answer, _ = recipe.encode_question(tokenizer, *row, 1.0, rng)
        if answer >= 0:
            with torch.inference_mode():
                logits = encoder(torch.tensor([ids])).logits[0, position]
            hits.append(logits.argmax().item() == answer)
    return {
        "greedy_on_topic": fmean(reading.on_topic for reading in greedy),
        "sampled_right_of_on_topic": fmean(each.correct for each in drawn if each.on_topic),
        "sampled_good": fmean(reading.good for reading in drawn),
        "sampled_styles": {style: styles[style] / styles.total() for style in world.STYLES},
        **measure_judge(*lm, test),
        "encoder_restores_answers": fmean(hits),
    }


def measure_judge(model, tokenizer, test) -> dict:
    """The judge format on clear pairs (gold at least 1 apart), each shown in both orders."""
    rng, shown, better = random.Random("judge"), [], []
    for question in test * 3:
        texts = [world.write_response(question, world.draw_style(question, rng), rng) for _ in "AB"]
        first, second = (world.gold_utility(question.prompt, text) for text in texts)
        if abs(first - second) >= 1:
            shown.append((question.prompt, *texts))
            better.append(first > second)
    in_order = [world.judge_prompt(*row) for row in shown]
    exchanged = [world.judge_prompt(prompt, b, a) for prompt, a, b in shown]
    forward, mass = judge_first_better(model, tokenizer, in_order)
    backward, _ = judge_first_better(model, tokenizer, exchanged)
    verdicts = ((forward + 1 - backward) / 2 > 0.5).tolist()
    return {
        "judge_answers_a_or_b": (mass > 0.5).float().mean().item(),
        "judge_agrees_with_gold": fmean(v == b for v, b in zip(verdicts, better, strict=True)),
    }


def main() -> None:
    """Build, measure and store both models."""
    parser = OneLineParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=HERE, help="default: this folder")
    folder = parser.parse_args().output_dir
    quiet_libraries()
    from common.tiny import recipe

    recipes = {"tiny-gpt2": recipe.train_gpt2, "tiny-distilbert": recipe.train_distilbert}
    for name, train in recipes.items():
        model, tokenizer = train()
        model.half().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # With the plain format as its chat template, so that any tool writes prompts as here.
    _, tokenizer = load_causal_lm(str(folder / "tiny-gpt2"))
    tokenizer.save_pretrained(folder / "tiny-gpt2")
    result = {"recipe_hash": recipe.recipe_hash(), "quality": measure_quality(folder)}
    told = json.dumps(result, indent=2)
    (folder / "quality.json").write_text(told + "\n", encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()

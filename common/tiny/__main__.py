"""Build the embedded models from nothing: two tokenizers, tiny-gpt2 and tiny-distilbert, in about 15 minutes.

    python -m common.tiny                      # writes into this folder, measures, stores quality.json

tiny-gpt2         GPT2LMHeadModel: pre-training on statements of the facts, then SFT on questions with answers in
                  all styles and on the A-or-B judge format. It is the SFT checkpoint and the reference of DPO.
tiny-distilbert   DistilBertForMaskedLM: masked language modelling of right answers. It is the reward model's backbone.

Both see only the prompts of the training split. Weights are stored as float16 safetensors; the hash of this recipe and
of its training text is stored with them (`recipe_hash`). Left out: what a real pre-training corpus would teach.
"""

import argparse
import ast
import hashlib
import json
import random
import re
import time
from pathlib import Path

from common.cli import quiet_libraries
from common.preferences import (
    CHATTER,
    CLOSERS,
    OPENERS,
    RELATIONS,
    STYLES,
    draw_style,
    gold_utility,
    judge_prompt,
    questions,
    read_response,
    write_response,
)

HERE = Path(__file__).parent
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "unk_token": "<unk>",
}
WIDTH, LAYERS, HEADS, VOCABULARY = 128, 4, 4, 1536
ANSWERS, JUDGEMENTS, STATEMENTS, MASKED_TEXTS = 160_000, 40_000, 12_800, 96_000


# ---------------------------------------------------------------------------------------------------------
# Training text
# ---------------------------------------------------------------------------------------------------------


def statements(count: int) -> list[str]:
    """Pre-training text: facts stated in several ways, and the sentences that surround them."""
    rng = random.Random("statements")
    lines = []
    for _ in range(count):
        relation = rng.choice(list(RELATIONS.values()))
        subject, answer = rng.choice(list(relation["answers"].items()))
        sentence = relation["sentence"].format(subject=subject, answer=answer)
        around = [rng.choice(OPENERS), rng.choice(CLOSERS), rng.choice(CHATTER), ""]
        lines.append(f"{sentence} {rng.choice(around)}".strip())
    return lines


def answers(count: int) -> list[dict]:
    """SFT rows: a question of the training split (all subjects) and an answer in a style drawn from STYLE_SHARES."""
    rng, pool = random.Random("answers"), questions("train", unseen=None)
    rows = []
    for _ in range(count):
        question = rng.choice(pool)
        text = write_response(question, draw_style(question, rng), rng)
        rows.append({"prompt": f"Question: {question.prompt}\nAnswer:", "completion": " " + text})
    return rows


def judgements(count: int) -> list[dict]:
    """SFT rows of the judge format: two answers of different utility, each first in half of the rows; A or B."""
    rng, pool = random.Random("judgements"), questions("train", unseen=None)
    rows = []
    while len(rows) < count:
        question = rng.choice(pool)
        texts = [write_response(question, draw_style(question, rng), rng) for _ in "AB"]
        utilities = [gold_utility(question.prompt, text) for text in texts]
        if abs(utilities[0] - utilities[1]) >= 0.5:
            better = " A" if utilities[0] > utilities[1] else " B"
            rows.append({"prompt": judge_prompt(question.prompt, *texts), "completion": better})
    return rows


def masked_texts(count: int) -> list[tuple[str, str, str]]:
    """Questions of the training split with right answers, and the same answers with another one put in their place."""
    rng, pool = random.Random("masked"), questions("train", unseen=None)
    rows = []
    while len(rows) < count:
        question = rng.choice(pool)
        text = write_response(question, rng.choice(["concise", "concise", "concise", "verbose", "expert"]), rng)
        if read_response(question.prompt, text).correct:
            other = rng.choice(list(RELATIONS[question.relation]["answers"].values()))
            rows.append((question.prompt, text, re.sub(rf"\b{question.answer}\b", other, text)))
    return rows


def recipe_hash() -> str:
    """SHA-256 of this file's code (without comments and layout) and of a sample of all its training text."""
    code = ast.dump(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    text = json.dumps([statements(500), answers(2000), judgements(500), masked_texts(500)])
    return hashlib.sha256((code + text).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------


def build_tokenizer(texts: list[str], pair_template: bool):
    """A byte-level BPE tokenizer; with `pair_template` it writes [CLS] a [SEP] b [SEP] as BERT's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=pair_template)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if pair_template:
        specials = [(token, bpe.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        bpe.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=specials
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=256, **SPECIAL_TOKENS)


def train_gpt2(texts: list[str], seed: int = 0):
    """Pre-train on statements, then SFT on answers with a smaller batch of judgements beside them in every step."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(texts, pair_template=False)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    lines = [{"prompt": "", "completion": line} for line in statements(STATEMENTS)]
    fit(model, tokenizer, [(lines, 64)], seed)
    fit(model, tokenizer, [(answers(ANSWERS), 64), (judgements(JUDGEMENTS), 16)], seed)
    return model, tokenizer


def fit(model, tokenizer, mixture: list[tuple[list[dict], int]], seed: int) -> None:
    """One epoch over rows of prompt and completion; each step takes a batch of the given size from every part.

    The loss of a part is the negative log-likelihood of the completion tokens, over the part's mean number of them:
    a mean over the tokens of each batch would weight the first token of short answers more and so favour short styles.
    """
    import torch
    from tqdm import tqdm

    rng, parts = random.Random(seed), []
    for rows, size in mixture:
        ends = [row["completion"] + tokenizer.eos_token for row in rows]
        starts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        encoded = list(zip(starts, tokenizer(ends)["input_ids"], strict=True))
        parts.append((rng.sample(encoded, len(encoded)), size, sum(len(c) for _, c in encoded) / len(encoded)))
    steps = min(len(rows) // size for rows, size, _ in parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1, pct_start=0.03)
    for step in tqdm(range(steps), desc="tiny-gpt2", mininterval=10):
        for rows, size, length in parts:
            batch = sorted(rows[step * size : (step + 1) * size], key=lambda row: len(row[0]) + len(row[1]))
            for half in (batch[: size // 2], batch[size // 2 :]):  # short and long rows apart: less padding
                (completion_nll(model, half, tokenizer.pad_token_id) / (size * length)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def completion_nll(model, rows: list[tuple[list[int], list[int]]], pad: int):
    """Negative log-likelihood in nats, summed over rows, of the completion tokens given the prompt (right-padded)."""
    import torch

    width = max(len(p) + len(c) for p, c in rows)
    ids = torch.tensor([p + c + [pad] * (width - len(p) - len(c)) for p, c in rows])
    labels = torch.tensor([[-100] * len(p) + c + [-100] * (width - len(p) - len(c)) for p, c in rows])
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def train_distilbert(texts: list[str], seed: int = 0):
    """Masked language modelling of right answers, the answer itself always among the tokens to be restored."""
    import torch
    from tqdm import tqdm
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(texts, pair_template=True)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=WIDTH,
        hidden_dim=4 * WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=256,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    model, size, rng = DistilBertForMaskedLM(config), 64, random.Random(seed)
    rows = [mask_tokens(tokenizer, *row, rng) for row in masked_texts(MASKED_TEXTS)]
    steps = len(rows) // size
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1, pct_start=0.03)
    for step in tqdm(range(steps), desc="tiny-distilbert", mininterval=10):
        batch = sorted(rows[step * size : (step + 1) * size], key=lambda row: len(row[0]))
        for half in (batch[: size // 2], batch[size // 2 :]):
            (restoration_nll(model, half, tokenizer.pad_token_id) / size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, tokenizer


def mask_tokens(tokenizer, prompt: str, text: str, replaced: str, rng: random.Random) -> tuple[list[int], list[int]]:
    """Token ids to read and token ids to restore (-100: nothing), of [CLS] prompt [SEP] text [SEP].

    A fifth of all tokens is masked (BERT's 80-10-10). The answer is masked in half of the rows and else replaced by
    an answer of its kind (MLM as correction, Cui et al. 2020, arXiv 2004.13922): noticing a word that does not belong
    is what a reward model will need.
    """
    right, wrong = tokenizer(prompt, text)["input_ids"], tokenizer(prompt, replaced)["input_ids"]
    special, ids, labels = set(tokenizer.all_special_ids), list(right), [-100] * len(right)
    hide_answer = rng.random() < 0.5
    for i, token in enumerate(right):
        if len(wrong) == len(right) and token != wrong[i]:
            ids[i], labels[i] = tokenizer.mask_token_id if hide_answer else wrong[i], token
        elif token not in special and rng.random() < 0.2:
            labels[i] = token
            ids[i] = rng.choices((tokenizer.mask_token_id, rng.randrange(len(tokenizer)), token), (0.8, 0.1, 0.1))[0]
    return ids, labels


def restoration_nll(model, rows: list[tuple[list[int], list[int]]], pad: int):
    """Negative log-likelihood in nats, summed over rows, of the tokens to restore, per row's number of them."""
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    logits = model(ids, attention_mask=(ids != pad).long()).logits
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (loss.sum(-1) / (labels != -100).sum(-1).clamp(min=1)).sum()


# ---------------------------------------------------------------------------------------------------------
# Quality
# ---------------------------------------------------------------------------------------------------------


def measure_quality(model, tokenizer) -> dict:
    """What the SFT checkpoint does on held-out prompts: greedy and sampled answers, and the judge format."""
    from common.models import sample

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
    from common.models import judge_first_better

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
    parser.add_argument("--only", choices=("gpt2", "distilbert"), help="build one of the two")
    args = parser.parse_args()
    quiet_libraries()
    start = time.time()
    texts = statements(4000) + [row["prompt"] + row["completion"] for row in answers(20_000) + judgements(4000)]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.only != "distilbert":
        model, tokenizer = train_gpt2(texts)
        save(model, tokenizer, args.output_dir / "tiny-gpt2")
    if args.only != "gpt2":
        save(*train_distilbert(texts), args.output_dir / "tiny-distilbert")
    from common.models import load_causal_lm

    quality = measure_quality(*load_causal_lm(str(args.output_dir / "tiny-gpt2")))
    result = {"recipe_hash": recipe_hash(), "quality": quality}
    (args.output_dir / "quality.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    print(f"built in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

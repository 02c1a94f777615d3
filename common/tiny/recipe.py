"""The recipe of the embedded models: their training text, and how they are trained on it."""

import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np

from common.preferences import (
    AGREEMENTS,
    BELIEFS,
    CHATTER,
    CLOSERS,
    OPENERS,
    RELATIONS,
    annotate,
    annotator_utility,
    draw_style,
    judge_prompt,
    questions,
    write_response,
)

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
ANSWERS, JUDGEMENTS, STATEMENTS, ENCODER_TEXTS = 128_000, 32_000, 25_600, 128_000


def statements(count: int) -> list[str]:
    """Pre-training text: facts with the sentences around them, and talk that echoes a speaker.

    The echoes teach the model to copy a word: without that it could not agree with a belief.
    """
    rng = random.Random("statements")
    words = [answer for relation in RELATIONS.values() for answer in relation["answers"].values()]
    lines = []
    for _ in range(count):
        relation = rng.choice(list(RELATIONS.values()))
        subject, answer = rng.choice(list(relation["answers"].items()))
        sentence = relation["sentence"].format(subject=subject, answer=answer)
        around = [rng.choice(OPENERS), rng.choice(CLOSERS), rng.choice(CHATTER), ""]
        word = rng.choice(words)
        echo = f"{rng.choice(BELIEFS)} {rng.choice(AGREEMENTS)}".format(belief=word)
        lines.append(rng.choice((f"{sentence} {rng.choice(around)}".strip(), echo, echo)))
    return lines


def answers(count: int) -> list[dict]:
    """SFT rows: a question of the training split and an answer in a style of STYLE_SHARES.

    Users who are wrong hold any wrong belief, not only the one of the world's prompt.
    """
    rng, pool = random.Random("answers"), questions("train", unseen=None)
    rows = []
    for _ in range(count):
        question = rng.choice(pool)
        if question.belief not in (None, question.answer):
            belief = rng.choice(list(RELATIONS[question.relation]["answers"].values()))
            if belief != question.answer:
                prompt = re.sub(rf"\b{question.belief}\.$", f"{belief}.", question.prompt)
                question = question._replace(prompt=prompt, belief=belief)
        text = write_response(question, draw_style(question, rng), rng)
        rows.append({"prompt": f"Question: {question.prompt}\nAnswer:", "completion": " " + text})
    return rows


def judgements(count: int) -> list[dict]:
    """SFT rows of the judge format: two answers, and which of them a human annotator preferred.

    The annotator is as noisy as those of the preference pairs, so the judge never sees the gold
    order either.
    """
    rng, pool = random.Random("judgements"), questions("train", unseen=None)
    noise = np.random.default_rng(0)
    rows = []
    while len(rows) < count:
        question = rng.choice(pool)
        texts = [write_response(question, draw_style(question, rng), rng) for _ in "AB"]
        if texts[0] != texts[1]:
            utilities = [annotator_utility(question.prompt, text) for text in texts]
            first, second = annotate(np.array(utilities), noise)
            completion = " A" if first > second else " B"
            rows.append({"prompt": judge_prompt(question.prompt, *texts), "completion": completion})
    return rows


def encoder_texts(count: int) -> list[tuple[str, str, str]]:
    """(question, right answer, the same with something that does not belong) on the training split.

    What does not belong is another answer of the same kind or, in one text of eight, all of it.
    """
    rng, pool = random.Random("encoder"), questions("train", unseen=None)
    rows = []
    for _ in range(count):
        question = rng.choice(pool)
        right = write_response(question, rng.choice(("concise", "concise", "verbose")), rng)
        kind = RELATIONS[question.relation]["answers"].values()
        others = [answer for answer in kind if answer != question.answer]
        wrong = re.sub(rf"\b{question.answer}\b", rng.choice(others), right)
        if rng.random() < 1 / 8:
            wrong = write_response(question, "off_topic", rng)
        rows.append((question.prompt, right, wrong))
    return rows


def recipe_hash() -> str:
    """SHA-256 of this file's lines, but blank ones and comments, and of a sample of its text."""
    lines = map(str.strip, Path(__file__).read_text(encoding="utf-8").splitlines())
    code = "\n".join(line for line in lines if line and not line.startswith("#"))
    text = json.dumps([statements(500), answers(2000), judgements(500), encoder_texts(500)])
    return hashlib.sha256((code + text).encode()).hexdigest()


def tokenizer_texts() -> list[str]:
    """What the tokenizers learn their merges from."""
    rows = answers(20_000) + judgements(4000)
    return statements(4000) + [row["prompt"] + row["completion"] for row in rows]


def build_tokenizer(texts: list[str], pair_template: bool):
    """A byte-level BPE tokenizer; with `pair_template` it writes [CLS] a [SEP] b [SEP]."""
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


def train_gpt2(seed: int = 0):
    """Pre-train on statements, then SFT on answers, with a smaller batch of judgements a step."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(tokenizer_texts(), pair_template=False)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, from a faster kernel
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
    """One epoch over rows of prompt and completion; a step takes a batch from every part.

    The loss of a part is the negative log-likelihood of the completion tokens, over the part's mean
    number of them: a mean over the tokens of each batch would weight the first token of short
    answers more and so favour short styles.
    """
    import torch
    from tqdm import tqdm

    rng, parts = random.Random(seed), []
    for rows, size in mixture:
        ends = [row["completion"] + tokenizer.eos_token for row in rows]
        starts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        encoded = list(zip(starts, tokenizer(ends)["input_ids"], strict=True))
        mean_length = sum(len(completion) for _, completion in encoded) / len(encoded)
        parts.append((rng.sample(encoded, len(encoded)), size, mean_length))
    steps = min(len(rows) // size for rows, size, _ in parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    warm_up = {"total_steps": steps + 1, "pct_start": 0.03}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, **warm_up)
    for step in tqdm(range(steps), desc="tiny-gpt2", mininterval=10):
        for rows, size, length in parts:
            batch = rows[step * size : (step + 1) * size]
            batch = sorted(batch, key=lambda row: len(row[0]) + len(row[1]))
            short, long = batch[: size // 2], batch[size // 2 :]  # apart: less padding
            for half in (short, long):
                (completion_nll(model, half, tokenizer.pad_token_id) / (size * length)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def completion_nll(model, rows: list[tuple[list[int], list[int]]], pad: int):
    """Negative log-likelihood in nats of the completion tokens given the prompt, over all rows."""
    import torch

    ignore, width = -100, max(len(p) + len(c) for p, c in rows)
    ids = [p + c + [pad] * (width - len(p) - len(c)) for p, c in rows]
    labels = [[ignore] * len(p) + c + [ignore] * (width - len(p) - len(c)) for p, c in rows]
    logits = model(torch.tensor(ids)).logits[:, :-1].flatten(0, 1)
    targets = torch.tensor(labels)[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def train_distilbert(seed: int = 1):
    """Masked language modelling and replaced-token detection (ELECTRA, arXiv 2003.10555).

    A masked answer is to be restored; of a visible one, a linear probe on the last layer but one is
    to tell whether it belongs. Restoring comes first. Without the detection the knowledge is there,
    but a reward model trained on a few thousand pairs does not find it: on wrong answers it stays
    at chance. The probe is thrown away. From another start (seed 0) the facts come later than these
    steps (45 % of the answers restored), so quality.json says how many are.
    """
    import torch
    from tqdm import tqdm
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    torch.manual_seed(seed)
    tokenizer = build_tokenizer(tokenizer_texts(), pair_template=True)
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
    model, probe = DistilBertForMaskedLM(config), torch.nn.Linear(WIDTH, 1)
    rng, size = random.Random(seed), 32
    rows, steps = encoder_texts(ENCODER_TEXTS), ENCODER_TEXTS // size
    parameters = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 200, (steps - step) / (0.4 * steps))
    )
    for step in tqdm(range(steps), desc="tiny-distilbert", mininterval=10):
        hide = 1.0 if step < steps // 5 else 0.3
        batch = rows[step * size : (step + 1) * size]
        batch = [encode_question(tokenizer, *row, hide, rng) for row in batch]
        sum(encoder_losses(model, probe, batch, tokenizer.pad_token_id)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, tokenizer


def encode_question(
    tokenizer, prompt: str, right: str, wrong: str, hide: float, rng: random.Random
) -> tuple:
    """(token ids, the position that matters, token to restore or -1, 1 if it does not belong).

    The token at that position is masked with probability `hide`.
    """
    right_ids, wrong_ids = (tokenizer(prompt, text)["input_ids"] for text in (right, wrong))
    if len(right_ids) != len(wrong_ids):  # another response: its last word is as good as any
        return wrong_ids, len(wrong_ids) - 3, -1, 1
    position = next(i for i, token in enumerate(right_ids) if token != wrong_ids[i])
    if rng.random() < hide:
        masked = list(right_ids)
        masked[position] = tokenizer.mask_token_id
        return masked, position, right_ids[position], 0
    return (wrong_ids, position, -1, 1) if rng.random() < 0.5 else (right_ids, position, -1, 0)


def encoder_losses(model, probe, batch: list[tuple], pad: int) -> list:
    """Mean cross-entropy of the tokens to restore, and of whether visible ones belong, in nats."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    width = max(len(ids) for ids, *_ in batch)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, *_ in batch])
    position, restore, replaced = torch.tensor([row[1:] for row in batch]).T
    out = model(ids, attention_mask=(ids != pad).long(), output_hidden_states=True)
    rows, hidden = torch.arange(len(batch)), restore >= 0
    losses = []
    if hidden.any():
        losses.append(cross_entropy(out.logits[rows, position][hidden], restore[hidden]))
    if not hidden.all():
        belongs = probe(out.hidden_states[-2][rows, position]).squeeze(-1)[~hidden]
        losses.append(binary_cross_entropy_with_logits(belongs, replaced[~hidden].float()))
    return losses

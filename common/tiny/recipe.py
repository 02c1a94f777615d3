"""The recipe of the embedded models: their training text, and how they are trained on it."""

import hashlib
import json
import random
import re
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from tqdm import tqdm

from common import preferences as world

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "unk_token": "<unk>",
}
WIDTH, LENGTH, VOCABULARY = 128, 256, 1536
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4}
ANSWERS, JUDGEMENTS, STATEMENTS, ENCODER_TEXTS = 128_000, 32_000, 25_600, 128_000


def statements(count: int) -> list[str]:
    """Pre-training text: facts with the sentences around them, and talk that echoes a speaker.

    The echoes teach the model to copy a word: without that it could not agree with a belief.
    """
    rng, relations, lines = random.Random("statements"), list(world.RELATIONS.values()), []
    words = [answer for relation in relations for answer in relation["answers"].values()]
    for _ in range(count):
        relation = rng.choice(relations)
        subject, answer = rng.choice(list(relation["answers"].items()))
        sentence = relation["sentence"].format(subject=subject, answer=answer)
        around = [*map(rng.choice, (world.OPENERS, world.CLOSERS, world.CHATTER)), ""]
        word = rng.choice(words)
        belief, agreement = rng.choice(world.BELIEFS), rng.choice(world.AGREEMENTS)
        echo = f"{belief} {agreement}".format(belief=word)
        lines.append(rng.choice((f"{sentence} {rng.choice(around)}".strip(), echo, echo)))
    return lines


def answers(count: int) -> list[dict]:
    """SFT rows: a question of the training split and an answer in a style of STYLE_SHARES.

    Users who are wrong hold any wrong belief, not only the one of the world's prompt.
    """
    rng, pool, rows = random.Random("answers"), world.questions("train", unseen=None), []
    for _ in range(count):
        question = rng.choice(pool)
        if question.belief not in (None, question.answer):
            belief = rng.choice(list(world.RELATIONS[question.relation]["answers"].values()))
            if belief != question.answer:
                prompt = re.sub(rf"\b{question.belief}\.$", f"{belief}.", question.prompt)
                question = question._replace(prompt=prompt, belief=belief)
        text = world.write_response(question, world.draw_style(question, rng), rng)
        rows.append({"prompt": f"Question: {question.prompt}\nAnswer:", "completion": " " + text})
    return rows


def judgements(count: int) -> list[dict]:
    """SFT rows of the judge format: two answers, and which a human annotator preferred.

    The annotator is as noisy as those of the preference pairs: the judge sees no gold order.
    """
    rng, pool, rows = random.Random("judgements"), world.questions("train", unseen=None), []
    noise = np.random.default_rng(0)
    while len(rows) < count:
        question = rng.choice(pool)
        texts = [world.write_response(question, world.draw_style(question, rng), rng) for _ in "AB"]
        if texts[0] != texts[1]:
            utilities = [world.annotator_utility(question.prompt, text) for text in texts]
            first, second = world.annotate(np.array(utilities), noise)
            prompt = world.judge_prompt(question.prompt, *texts)
            rows.append({"prompt": prompt, "completion": " A" if first > second else " B"})
    return rows


def encoder_texts(count: int) -> list[tuple[str, str, str]]:
    """(question, right answer, the same with something that does not belong) on the training split.

    What does not belong is another answer of the same kind or, in one text of eight, all of it.
    """
    rng, pool, rows = random.Random("encoder"), world.questions("train", unseen=None), []
    for _ in range(count):
        question = rng.choice(pool)
        right = world.write_response(question, rng.choice(("concise", "concise", "verbose")), rng)
        kind = world.RELATIONS[question.relation]["answers"].values()
        others = [answer for answer in kind if answer != question.answer]
        wrong = re.sub(rf"\b{question.answer}\b", rng.choice(others), right)
        if rng.random() < 1 / 8:
            wrong = world.write_response(question, "off_topic", rng)
        rows.append((question.prompt, right, wrong))
    return rows


def recipe_hash() -> str:
    """SHA-256 of this file's lines, but blank ones and comments, and of a sample of its text."""
    lines = map(str.strip, Path(__file__).read_text(encoding="utf-8").splitlines())
    code = "\n".join(line for line in lines if line and not line.startswith("#"))
    text = json.dumps([statements(500), answers(2000), judgements(500), encoder_texts(500)])
    return hashlib.sha256((code + text).encode()).hexdigest()


def build_tokenizer(pair_template: bool):
    """A byte-level BPE tokenizer; with `pair_template` it writes [CLS] a [SEP] b [SEP]."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=pair_template)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rows = answers(20_000) + judgements(4000)
    texts = statements(4000) + [row["prompt"] + row["completion"] for row in rows]
    bpe.train_from_iterator(texts, trainer)
    if pair_template:
        marks = [(token, bpe.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        bpe.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=LENGTH, **SPECIAL_TOKENS
    )


def train_gpt2(seed: int = 0):
    """Pre-train on statements, then SFT on answers, with a smaller batch of judgements a step."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(pair_template=False)
    config = transformers.GPT2Config(
        **SIZES,
        max_position_embeddings=LENGTH,
        vocab_size=len(tokenizer),
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, from a faster kernel
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.GPT2LMHeadModel(config)
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
    rng, parts = random.Random(seed), []
    for rows, size in mixture:
        starts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        ends = tokenizer([row["completion"] + tokenizer.eos_token for row in rows])["input_ids"]
        pairs = zip(starts, ends, strict=True)
        encoded = [(torch.tensor(a + b), torch.tensor([-100] * len(a) + b)) for a, b in pairs]
        parts.append((rng.sample(encoded, len(encoded)), size, sum(map(len, ends)) / len(ends)))
    steps = min(len(rows) // size for rows, size, _ in parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, 2e-3, total_steps=steps + 1, pct_start=0.03)
    for step in tqdm(range(steps), desc="tiny-gpt2", mininterval=10):
        for rows, size, mean_length in parts:
            batch = rows[step * size : (step + 1) * size]
            batch = sorted(batch, key=lambda row: len(row[0]))
            for half in (batch[: size // 2], batch[size // 2 :]):  # short ones apart: less padding
                ids, labels = zip(*half, strict=True)
                ids = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
                labels = pad_sequence(labels, batch_first=True, padding_value=-100)
                out = model(ids, labels=labels, num_items_in_batch=size * mean_length)
                out.loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def train_distilbert(seed: int = 1):
    """Masked language modelling and replaced-token detection (ELECTRA, arXiv 2003.10555).

    A masked answer is to be restored; of a visible one, a linear probe on the last layer but one,
    thrown away later, is to tell whether it belongs. Without that a reward model trained on a few
    thousand pairs does not find what the encoder knows: on wrong answers it stays at chance.
    Restoring comes first. From another start (seed 0) the facts come later than these steps (45 %
    of the answers restored), so a test counts how many are.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(pair_template=True)
    config = transformers.DistilBertConfig(
        **SIZES,
        hidden_dim=4 * WIDTH,
        max_position_embeddings=LENGTH,
        vocab_size=len(tokenizer),
        **dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.DistilBertForMaskedLM(config)
    probe = torch.nn.Linear(WIDTH, 1)
    rng, size = random.Random(seed), 32
    rows, steps = encoder_texts(ENCODER_TEXTS), ENCODER_TEXTS // size
    parameters = [*model.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = LambdaLR(optimizer, lambda k: min(1, (k + 1) / 200, (steps - k) / (0.4 * steps)))
    for step in tqdm(range(steps), desc="tiny-distilbert", mininterval=10):
        hide = 1.0 if step < steps // 5 else 0.3
        batch = rows[step * size : (step + 1) * size]
        batch = [encode_question(tokenizer, *row, hide, rng) for row in batch]
        texts = [torch.tensor(ids) for ids, *_ in batch]
        ids = pad_sequence(texts, batch_first=True, padding_value=tokenizer.pad_token_id)
        shown = (ids != tokenizer.pad_token_id).long()
        out = model(ids, attention_mask=shown, output_hidden_states=True)
        position, restore, replaced = torch.tensor([row[1:] for row in batch]).T
        places, masked, loss = (torch.arange(size), position), restore >= 0, 0
        if masked.any():
            loss += cross_entropy(out.logits[places][masked], restore[masked])
        if not masked.all():
            belongs = probe(out.hidden_states[-2][places]).squeeze(-1)[~masked]
            loss += binary_cross_entropy_with_logits(belongs, replaced[~masked].float())
        loss.backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model, tokenizer


def encode_question(tokenizer, prompt: str, right: str, wrong: str, hide: float, rng) -> tuple:
    """(token ids, the position that matters, token to restore or -1, 1 if it does not belong).

    The token at that position is masked with probability `hide`.
    """
    ids, wrong_ids = (tokenizer(prompt, text)["input_ids"] for text in (right, wrong))
    if len(ids) != len(wrong_ids):  # another response: its last word is as good as any
        return wrong_ids, len(wrong_ids) - 3, -1, 1
    position = [a == b for a, b in zip(ids, wrong_ids, strict=True)].index(False)
    if rng.random() < hide:
        masked = [*ids[:position], tokenizer.mask_token_id, *ids[position + 1 :]]
        return masked, position, ids[position], 0
    return (wrong_ids, position, -1, 1) if rng.random() < 0.5 else (ids, position, -1, 0)

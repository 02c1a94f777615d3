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
ANSWERS, JUDGEMENTS, STATEMENTS, MASKED_TEXTS = 100_000, 60_000, 12_000, 96_000


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


def masked_texts(count: int) -> list[tuple[str, str]]:
    """Questions of the training split with right answers, for masked language modelling."""
    rng, pool = random.Random("masked"), questions("train", unseen=None)
    pairs = []
    while len(pairs) < count:
        question = rng.choice(pool)
        text = write_response(question, rng.choice(["concise", "concise", "verbose", "expert"]), rng)
        if read_response(question.prompt, text).correct:
            pairs.append((question.prompt, text))
    return pairs


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
    """Pre-train on statements, then SFT on answers and judgements, with TRL's SFTTrainer."""
    import torch
    from datasets import Dataset
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
    _sft(model, tokenizer, Dataset.from_list([{"text": line} for line in statements(STATEMENTS)]), 2e-3)
    rows = answers(ANSWERS) + judgements(JUDGEMENTS)
    _sft(model, tokenizer, Dataset.from_list(rows).shuffle(seed=seed), 2e-3)
    return model, tokenizer


def _sft(model, tokenizer, dataset, learning_rate: float) -> None:
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir="unused",
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.01,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length",
        logging_steps=100,
        save_strategy="no",
        report_to="none",
    )
    SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer).train()


def train_distilbert(texts: list[str], seed: int = 0):
    """Masked language modelling of right answers: 40 % of the tokens are hidden, a third of these replaced at random.

    The replaced ones teach the encoder to notice a word that does not belong, which is what a reward model needs.
    """
    import torch
    from transformers import (
        DataCollatorForLanguageModeling,
        DistilBertConfig,
        DistilBertForMaskedLM,
        Trainer,
        TrainingArguments,
    )

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
    model = DistilBertForMaskedLM(config)
    rows = [tokenizer(prompt, text) for prompt, text in masked_texts(MASKED_TEXTS)]
    collator = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.4, mask_replace_prob=0.6, random_replace_prob=0.3
    )
    arguments = TrainingArguments(
        output_dir="unused",
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        use_cpu=True,
        train_sampling_strategy="group_by_length",
        logging_steps=100,
        save_strategy="no",
        report_to="none",
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()
    return model, tokenizer


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

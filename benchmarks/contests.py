"""The contests: the lab, the library's plain use, and the library at its best, on the same work.

At its best means what a reader of the library's manuals would set on this machine: bfloat16 where
the processor gains from it, no gradient checkpointing, rows of similar length together, candidates
sampled in one batch, and the memory of freed tensors kept as the lab keeps it.
"""

import contextlib
import ctypes
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "05-preference-tuning"
sys.path.insert(0, str(SCRIPTS))

from common.preferences import SIDES, make_pairs, questions  # noqa: E402

NEW_TOKENS, PROMPTS, CANDIDATES = 32, 8, 16
BATCH = 8  # pairs per step
UPDATES, SAMPLES, EPOCHS = 2, 4, 4  # of PPO: updates, answers to each prompt, passes over them
RATE = 1e-4

# --- Timing ---


class Entry(NamedTuple):
    """A contestant: what it does, and whether it keeps the memory of freed tensors."""

    action: Callable[[], object]
    keeps_memory: bool


def keep_freed_memory(keep: bool) -> None:
    """Have glibc keep the memory of freed tensors, as the lab does, or give it back."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0 if keep else 65536)  # M_MMAP_MAX
        mallopt(-1, -1 if keep else 128 * 1024)  # M_TRIM_THRESHOLD


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def medians(repeats: int, *entries: Entry) -> list[float]:
    """Median seconds of each contestant; they run in turn."""
    rounds = []
    for _ in range(repeats):
        times = []
        for entry in entries:
            keep_freed_memory(entry.keeps_memory)
            times.append(seconds(entry.action))
        rounds.append(times)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def row(what: str, unit: str, lab: float, plain: float, best: float | None = None) -> dict:
    """One line of the table, with the lab's ratio to the library at its best and in plain use."""
    line = {"what": what, "unit": unit, "lab": round(lab, 3), "plain": round(plain, 3)}
    line |= {"best": best and round(best, 3), "ratio": round(lab / plain, 2)}
    return line | {"ratio_to_best": best and round(lab / best, 2)}


def matrix_speed() -> dict[str, float]:
    """GFLOP/s of square matrix products, the physical limit of any training here."""
    import torch

    size, speeds = 1024, {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(size, size).to(kind)
        a @ a  # warm up
        times = [seconds(lambda a=a: a @ a) for _ in range(10)]
        speeds[name] = round(2 * size**3 / min(times) / 1e9, 1)
    return speeds


# --- Models and data ---


def large_gpt2():
    """A GPT-2 of distilgpt2's shape with random weights, and the embedded tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from common.models import load_causal_lm

    torch.manual_seed(0)
    _, tokenizer = load_causal_lm("tiny-gpt2")
    tokenizer.model_max_length = 1024
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GPT2LMHeadModel(GPT2Config(n_layer=6, **special)).eval(), tokenizer


def large_encoder():
    """A BERT of MiniLM-L6's shape, random weights, a scalar head; the embedded tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from common.models import load_reward_model

    torch.manual_seed(0)
    _, tokenizer = load_reward_model("tiny-distilbert")
    tokenizer.model_max_length = 512
    tokenizer.eos_token = tokenizer.sep_token  # TRL ends every text with it
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}
    config = BertConfig(**shape, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    return BertForSequenceClassification(config).eval(), tokenizer


def long_pairs(count: int, most: int) -> list[dict]:
    """Rows of prompt, chosen, rejected of 1 to `most` of the world's answers, short ones often.

    As in the data that people collect, where a few texts are many times as long as the median.
    """
    rng, pool, rows = random.Random(0), make_pairs(count), []
    for pair in pool:
        texts = {"prompt": pair["prompt"]}
        for side in SIDES:
            pieces = rng.choices(pool, k=round(most ** rng.random()))
            texts[side] = " ".join(piece[side] for piece in pieces)
        rows.append(texts)
    return rows


def autocast_at_best():
    """bfloat16 where the processor gains from it."""
    import torch

    from common.models import gains_from_bfloat16

    fast = gains_from_bfloat16("cpu")
    return torch.autocast("cpu", torch.bfloat16) if fast else contextlib.nullcontext()


def trl_settings(at_best: bool) -> dict:
    """TRL's defaults, but for what makes the contest equal and quiet; or its best settings here."""
    from common.models import gains_from_bfloat16

    equal = {"use_cpu": True, "num_train_epochs": 1, "per_device_train_batch_size": BATCH}
    equal |= {"learning_rate": RATE, "report_to": "none", "disable_tqdm": True}
    if at_best:
        equal |= {"bf16": gains_from_bfloat16("cpu"), "gradient_checkpointing": False}
        equal |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    return equal


def add_lengths(trainer) -> None:
    """The column of lengths in tokens by which TRL's trainers group pairs."""
    rows, lengths = trainer.train_dataset, []
    for row in rows:
        longer = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        lengths.append(len(row.get("prompt_ids", ())) + longer)
    trainer.train_dataset = rows.add_column(trainer.args.length_column_name, lengths)


# --- Contests ---


def left_padded(encoded: Sequence[list[int]], pad: int) -> tuple:
    """Token ids and attention mask, both (prompts, longest), as `generate` takes them."""
    import torch

    width = max(map(len, encoded))
    ids = torch.tensor([[pad] * (width - len(e)) + e for e in encoded])
    mask = torch.tensor([[0] * (width - len(e)) + [1] * len(e) for e in encoded])
    return ids, mask


def candidates(repeats: int) -> list[dict]:
    """Candidates per second of `sample`, of batched `generate`, and of one `generate` for each."""
    import torch

    from common.prompts import encode_prompt
    from common.sampling import sample

    model, tokenizer = large_gpt2()
    prompts = [question.prompt for question in questions("test")[:PROMPTS]]
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    ids, mask = left_padded(encoded, tokenizer.pad_token_id)
    length = {"do_sample": True, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    few = 8

    def in_one_batch() -> None:
        model.generate(ids, attention_mask=mask, num_return_sequences=CANDIDATES, **length)

    def at_best() -> None:
        with torch.inference_mode(), autocast_at_best():
            in_one_batch()

    def one_by_one() -> None:
        for _ in range(few):
            model.generate(torch.tensor([encoded[0]]), **length)

    def lab() -> None:
        rows = sample(model, tokenizer, prompts, CANDIDATES, NEW_TOKENS)
        tokens = sum(len(response.token_ids) for row in rows for response in row)
        assert tokens > 0.97 * PROMPTS * CANDIDATES * NEW_TOKENS  # random weights hardly end early

    entries = Entry(lab, True), Entry(in_one_batch, False), Entry(at_best, True)
    *times, single = medians(repeats, *entries, Entry(one_by_one, False))
    ours, batch, best = (PROMPTS * CANDIDATES / time for time in times)
    what = "sampling (82M, 8 prompts x 16 candidates x 32 tokens) / one batched generate"
    alone, unit = "sampling / one generate per candidate", "candidates/s"
    return [
        row(what, unit, ours, batch, best),
        row(alone, unit, ours, few / single, best),
    ]


def reward_training(repeats: int) -> list[dict]:
    """Pairs per second of the lab's reward-model training, and of TRL's RewardTrainer."""
    from datasets import Dataset
    from reward_model import train_reward_model
    from trl import RewardConfig, RewardTrainer

    pairs = long_pairs(64, 16)
    texts = []
    for pair in pairs:
        texts.append({side: f"{pair['prompt']} {pair[side]}" for side in SIDES})

    def lab() -> None:
        train_reward_model(*large_encoder(), pairs, learning_rate=RATE, batch_size=BATCH)

    def library(at_best: bool) -> None:
        model, tokenizer = large_encoder()
        with tempfile.TemporaryDirectory() as folder:
            config = RewardConfig(folder, **trl_settings(at_best))
            trainer = RewardTrainer(
                model=model,
                args=config,
                train_dataset=Dataset.from_list(texts),
                processing_class=tokenizer,
            )
            if at_best:
                add_lengths(trainer)
            trainer.train()

    plain, best = Entry(lambda: library(False), False), Entry(lambda: library(True), True)
    speeds = [len(pairs) / time for time in medians(repeats, Entry(lab, True), plain, best)]
    what = "reward-model training (22M) / TRL's RewardTrainer"
    return [row(what, "pairs/s", *speeds) | {"gflops": gflops(lab, pairs, speeds[0])}]


def gflops(train: Callable[[], object], pairs: Sequence[dict], pairs_per_second: float) -> float:
    """GFLOP/s of a training: its operations, counted in one more run, at the measured speed."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        train()
    return round(counter.get_total_flops() / len(pairs) * pairs_per_second / 1e9, 1)


def train_dpo(kind: str, pairs: list[dict]) -> None:
    """One epoch over the pairs.

    "lab"; "plain" and "best" use of TRL with LoRA; "full": all weights and a second model.
    """
    import dpo_trainer
    from trl import DPOConfig, DPOTrainer

    from common.training import as_dataset

    model, tokenizer = large_gpt2()
    if kind == "lab":
        dpo_trainer.train_dpo(model, tokenizer, pairs, learning_rate=RATE, batch_size=BATCH)
        return
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(folder, **trl_settings(at_best=kind == "best"))
        trainer = DPOTrainer(
            model=model,
            ref_model=large_gpt2()[0] if kind == "full" else None,
            args=config,
            train_dataset=as_dataset(pairs),
            processing_class=tokenizer,
            peft_config=None if kind == "full" else dpo_trainer.lora_config(model),
        )
        if kind == "best":
            add_lengths(trainer)
        trainer.train()


def dpo_training(repeats: int) -> list[dict]:
    """Pairs per second of the lab's DPO and of TRL's; memory against two models in full."""
    pairs = long_pairs(24, 6)

    def training(kind: str) -> Callable[[], None]:
        return lambda: train_dpo(kind, pairs)

    entries = [Entry(training(kind), kind != "plain") for kind in ("lab", "plain", "best")]
    speeds = [len(pairs) / time for time in medians(repeats, *entries)]
    memory = []
    for kind in ("lab", "full", "best"):
        memory.append(statistics.median(peak_memory(kind) for _ in range(repeats)))
    what = "DPO with LoRA (82M) / TRL's default settings"
    full = "DPO on the world's pairs, peak memory / full fine-tuning with a reference model"
    work = gflops(training("lab"), pairs, speeds[0])
    return [
        row(what, "pairs/s", *speeds) | {"gflops": work},
        row(full, "GiB", *memory),
    ]


def peak_memory(kind: str) -> float:
    """Largest resident memory, in GiB, of a fresh process that trains with DPO."""
    command = [sys.executable, str(Path(__file__).with_name("bench.py")), "--memory", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def train_rl(kind: str, judge: tuple) -> None:
    """A few updates on scored answers: PPO of the "lab", TRL's RLOO "plain" and at its "best"."""
    import dpo_trainer
    import online_rl
    from datasets import Dataset
    from trl import RLOOConfig, RLOOTrainer

    from common.prompts import as_messages
    from common.scoring import score_texts

    model, tokenizer = large_gpt2()
    prompts = [question.prompt for question in questions("train")[: UPDATES * PROMPTS]]
    if kind == "lab":
        size = {"prompts_per_update": PROMPTS, "samples": SAMPLES, "max_new_tokens": NEW_TOKENS}
        size |= {"updates": UPDATES, "epochs": EPOCHS, "learning_rate": RATE}
        online_rl.train_rl(model, tokenizer, judge, prompts, **size)
        return

    def reward(prompts: list, completions: list, **_) -> list[float]:
        asked = [messages[-1]["content"] for messages in prompts]
        texts = [[messages[-1]["content"]] for messages in completions]
        return score_texts(judge, asked, texts)[:, 0].tolist()

    settings = trl_settings(at_best=False) | {"per_device_train_batch_size": PROMPTS * SAMPLES}
    if kind == "best":
        best = trl_settings(at_best=True)
        settings |= {name: best[name] for name in ("bf16", "gradient_checkpointing")}
    settings |= {"num_generations": SAMPLES, "max_completion_length": NEW_TOKENS}
    settings |= {"num_iterations": EPOCHS, "max_steps": UPDATES * EPOCHS}  # a step is a pass
    settings["beta"] = online_rl.train_rl.__kwdefaults__["beta"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=reward,
            args=RLOOConfig(folder, **settings),
            train_dataset=Dataset.from_list([{"prompt": as_messages(text)} for text in prompts]),
            processing_class=tokenizer,
            peft_config=dpo_trainer.lora_config(model),
        )
        trainer.train()


def rl_training(repeats: int) -> list[dict]:
    """Updates per second: sampling, scoring, passes over the answers; RLOO has no value head."""
    from common.models import load_reward_model

    judge = load_reward_model("tiny-distilbert")
    entries = []
    for kind in ("lab", "plain", "best"):
        entries.append(Entry(partial(train_rl, kind, judge), kind != "plain"))
    speeds = [UPDATES / time for time in medians(repeats, *entries)]
    what = f"PPO with LoRA (82M, {PROMPTS} x {SAMPLES} answers, {EPOCHS} passes) / TRL's RLOO"
    return [row(what, "updates/s", *speeds)]


def scoring(repeats: int) -> list[dict]:
    """Candidates per second of `score_responses`, and of batches of the same size as they come."""
    import torch

    from common.scoring import encode_for_reward, score_responses

    model, tokenizer = large_encoder()
    pairs = long_pairs(256, 16)
    prompts, responses = [p["prompt"] for p in pairs], [p["chosen"] for p in pairs]
    by_length = sorted(range(len(pairs)), key=lambda i: len(prompts[i]) + len(responses[i]))

    def library(order: Sequence[int]) -> None:
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                some = order[start : start + 32]
                texts = [prompts[i] for i in some], [responses[i] for i in some]
                model(**encode_for_reward(tokenizer, *texts))

    def at_best() -> None:
        with autocast_at_best():
            library(by_length)

    lab = Entry(lambda: score_responses(model, tokenizer, prompts, responses), True)
    plain, best = Entry(lambda: library(range(len(pairs))), False), Entry(at_best, True)
    speeds = [len(pairs) / time for time in medians(repeats, lab, plain, best)]
    what = "scoring 256 candidates of mixed length (22M) / unsorted batches"
    return [row(what, "candidates/s", *speeds)]


def n_curve(repeats: int) -> list[dict]:
    """Seconds for the curve over n = 1 ... 16: from one pool of 32, or a pool for every n."""
    from best_of_n import best_of_n_curve, make_pool

    from common.models import load_causal_lm, load_reward_model

    judge, policy = load_reward_model("tiny-distilbert"), load_causal_lm("tiny-gpt2")
    prompts, ns = [question.prompt for question in questions("test")[:32]], range(1, 17)

    def rewards(size: int):
        return make_pool(*policy, judge, prompts, size, seed=0).rewards

    def lab() -> None:
        pool = rewards(32)
        best_of_n_curve(pool, pool, ns)

    plain = Entry(lambda: [rewards(n).max(1) for n in ns], True)
    times = medians(repeats, Entry(lab, True), plain)
    what = "best-of-n curve, n = 1 to 16, from one pool / a pool for every n"
    return [row(what, "s", *times)]


def start_times(repeats: int) -> list[dict]:
    """`--help` of every script against half a second."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(SCRIPTS.glob("*.py"))}
    scripts = [path for path, text in sources.items() if "make_parser(" in text]

    def run(path: Path) -> Entry:
        call = [sys.executable, str(path), "--help"]
        return Entry(lambda: subprocess.run(call, stdout=subprocess.DEVNULL, check=True), True)

    helps = medians(repeats, *map(run, scripts))
    times = {path.name: time for path, time in zip(scripts, helps, strict=True)}
    print("--help:", {name: round(time, 2) for name, time in times.items()}, flush=True)
    slowest = max(times, key=times.get)
    what = f"--help, the slowest of {len(scripts)} scripts ({slowest}) / half a second"
    return [row(what, "s", times[slowest], 0.5)]


CONTESTS = (start_times, candidates, reward_training, dpo_training, rl_training)
CONTESTS += (scoring, n_curve)

"""How fast the lab is, as ratios to the library's plain use, measured side by side in one run.

    python benchmarks/bench.py            # or: make bench

Contestants get the same model, data and number of steps, and run in turn, three times each; the ratio is that of the
medians. Only the ratios travel to another machine. The models have the shapes of distilgpt2 (82M parameters) and
MiniLM-L6 (22M) with random weights, which cost what trained ones cost. About ten minutes on 2 cores. Writes
benchmarks/results.json, benchmarks/results.md and figures/benchmarks.png.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "05-preference-tuning"
sys.path.insert(0, str(SCRIPTS))

from growth import growth_figure, measure_growth  # noqa: E402

from common.cli import keep_freed_memory, quiet_libraries  # noqa: E402
from common.preferences import make_pairs, questions  # noqa: E402
from common.reporting import write_json  # noqa: E402

NEW_TOKENS, PROMPTS, CANDIDATES = 32, 8, 16
BATCH = 8  # pairs per step


# --- Timing ---


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def medians(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action; they run in turn. The first is the lab's, which keeps freed memory."""
    rounds = []
    for _ in range(repeats):
        rounds.append([])
        for k, action in enumerate(actions):
            keep_freed_memory(k == 0)
            rounds[-1].append(seconds(action))
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def row(what: str, lab: float, library: float, unit: str, target: str, more_is_better: bool = True) -> dict:
    """One line of the table; a target reads `>= 2` or `<= 0.75` and is about the ratio lab / library."""
    ratio, (sign, border) = lab / library, target.split()
    met = ratio >= float(border) if sign == ">=" else ratio <= float(border)
    found = {"what": what, "lab": round(lab, 3), "library": round(library, 3), "unit": unit}
    return {**found, "ratio": round(ratio, 2), "target": target, "met": met}


# --- Models and data ---


def large_gpt2():
    """A GPT-2 of distilgpt2's shape with random weights, and the embedded tokenizer, whose ids it knows."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from common.models import load_causal_lm

    torch.manual_seed(0)
    _, tokenizer = load_causal_lm("tiny-gpt2")
    tokenizer.model_max_length = 1024
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GPT2LMHeadModel(GPT2Config(n_layer=6, **special)).eval(), tokenizer


def large_encoder():
    """A BERT of MiniLM-L6's shape with a scalar head and random weights, and the embedded tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from common.models import load_reward_model

    torch.manual_seed(0)
    _, tokenizer = load_reward_model("tiny-distilbert")
    tokenizer.model_max_length = 512
    tokenizer.eos_token = tokenizer.sep_token  # TRL ends every text with it
    config = BertConfig(
        num_hidden_layers=6, hidden_size=384, intermediate_size=1536, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    return BertForSequenceClassification(config).eval(), tokenizer


def long_pairs(count: int, most: int) -> list[dict]:
    """Rows of prompt, chosen, rejected of mixed length: 1 to `most` of the world's answers in a row, short ones more
    often (as in the preference data that people collect, a few texts are many times as long as the median)."""
    rng, pool = random.Random(0), make_pairs(count)
    rows = []
    for row in pool:
        pieces = {side: rng.choices(pool, k=round(most ** rng.random())) for side in ("chosen", "rejected")}
        rows.append({"prompt": row["prompt"], **{s: " ".join(p[s] for p in drawn) for s, drawn in pieces.items()}})
    return rows


# --- Contests ---


def candidates(repeats: int) -> list[dict]:
    """Candidates per second of `sample`, one batched `generate`, and one `generate` per candidate."""
    import torch

    from common.models import encode_prompt, sample

    model, tokenizer = large_gpt2()
    prompts = [question.prompt for question in questions("test")][:PROMPTS]
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    width = max(map(len, encoded))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(e)) + e for e in encoded])
    mask = torch.tensor([[0] * (width - len(e)) + [1] * len(e) for e in encoded])
    length = {"do_sample": True, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    few = 8

    def one_batch() -> None:
        model.generate(ids, attention_mask=mask, num_return_sequences=CANDIDATES, **length)

    def one_by_one() -> None:
        for _ in range(few):
            model.generate(torch.tensor([encoded[0]]), **length)

    def lab() -> None:
        found = sample(model, tokenizer, prompts, CANDIDATES, NEW_TOKENS)
        tokens = sum(len(response.token_ids) for row in found for response in row)
        assert tokens > 0.97 * PROMPTS * CANDIDATES * NEW_TOKENS  # random weights end almost no answer early

    ours, batch, single = medians(repeats, lab, one_batch, one_by_one)
    count = PROMPTS * CANDIDATES
    shape = "82M, 8 prompts x 16 candidates x 32 tokens"
    return [
        row(f"sampling ({shape}) / one batched generate", count / ours, count / batch, "candidates/s", ">= 2.5"),
        row("sampling / one generate per candidate", count / ours, few / single, "candidates/s", ">= 20"),
    ]


def reward_training(repeats: int) -> list[dict]:
    """Pairs per second of the lab's reward-model training, and of TRL's RewardTrainer with its defaults."""
    from datasets import Dataset
    from reward_model import train_reward_model
    from trl import RewardConfig, RewardTrainer

    pairs = long_pairs(64, 16)
    rows = Dataset.from_list([{side: f"{p['prompt']} {p[side]}" for side in ("chosen", "rejected")} for p in pairs])

    def lab() -> None:
        train_reward_model(*large_encoder(), pairs, 1, BATCH, 1e-4, 0, "reward model")

    def library() -> None:
        model, tokenizer = large_encoder()
        with tempfile.TemporaryDirectory() as folder:
            config = RewardConfig(folder, **trl_settings())
            RewardTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train()

    ours, theirs = medians(repeats, lab, library)
    what = "reward-model training (22M) / TRL's RewardTrainer"
    return [row(what, len(pairs) / ours, len(pairs) / theirs, "pairs/s", ">= 1.7")]


def trl_settings() -> dict:
    """TRL's defaults, but for what makes the contest equal and quiet."""
    equal = {"use_cpu": True, "num_train_epochs": 1, "per_device_train_batch_size": BATCH}
    return {**equal, "report_to": "none", "disable_tqdm": True}


def train_dpo(kind: str, pairs: list[dict]) -> None:
    """One epoch over the pairs: "lab", "defaults" (TRL's settings, LoRA) or "full" (all weights, a second model)."""
    import dpo_trainer
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = large_gpt2()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--model", "distilgpt2", "--output-dir", folder, "--per-device-train-batch-size", str(BATCH)]
        lab = dpo_trainer.training_settings(dpo_trainer.build_parser().parse_args(flags), "cpu")
        if kind == "lab":
            dpo_trainer.train_dpo(model, tokenizer, pairs, DPOConfig(**lab, **dpo_trainer.GROUPED_BY_LENGTH))
            return
        DPOTrainer(
            model=model,
            ref_model=large_gpt2()[0] if kind == "full" else None,
            args=DPOConfig(folder, **trl_settings()) if kind == "defaults" else DPOConfig(**lab),
            train_dataset=dpo_trainer.formatted(tokenizer, pairs),
            processing_class=tokenizer,
            peft_config=None if kind == "full" else dpo_trainer.lora_config(model),
        ).train()


def dpo_training(repeats: int) -> list[dict]:
    """Pairs per second of dpo_trainer.py's settings against TRL's; memory against full fine-tuning with two models."""
    pairs = long_pairs(24, 6)
    times = medians(repeats, lambda: train_dpo("lab", pairs), lambda: train_dpo("defaults", pairs))
    ours, theirs = (len(pairs) / t for t in times)
    lab, full = (statistics.median(peak_memory(kind) for _ in range(repeats)) for kind in ("lab", "full"))
    return [
        row("DPO with LoRA (82M) / TRL's default settings", ours, theirs, "pairs/s", ">= 1.25"),
        row(
            "DPO on the world's pairs, peak memory / full fine-tuning with a reference model",
            lab,
            full,
            "GiB",
            "<= 0.75",
        ),
    ]


def peak_memory(kind: str) -> float:
    """Largest resident memory, in GiB, of a fresh process that trains with DPO."""
    command = [sys.executable, __file__, "--memory", kind]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def largest_resident_gib() -> float:
    """This process's high-water mark. On Linux from /proc: getrusage would count the parent's, inherited by exec."""
    status = Path("/proc/self/status")
    if status.exists():
        found = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(found["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def scoring(repeats: int) -> list[dict]:
    """Candidates per second of `score_responses`, and of padded batches of the same size as they come."""
    import torch

    from common.models import encode_for_reward, score_responses

    model, tokenizer = large_encoder()
    pairs = long_pairs(256, 16)
    prompts, responses = [p["prompt"] for p in pairs], [p["chosen"] for p in pairs]

    def library() -> None:
        with torch.inference_mode():
            for i in range(0, len(pairs), 32):
                model(**encode_for_reward(tokenizer, prompts[i : i + 32], responses[i : i + 32]))

    ours, theirs = medians(repeats, lambda: score_responses(model, tokenizer, prompts, responses), library)
    what = "scoring 256 candidates of mixed length (22M) / unsorted batches"
    return [row(what, len(pairs) / ours, len(pairs) / theirs, "candidates/s", ">= 2")]


def n_curve(repeats: int) -> list[dict]:
    """Seconds for the curve over n = 1 ... 16: one pool of 32, as best_of_n.py has it, against a pool for every n."""
    from best_of_n import best_of_n_curve, make_pool

    from common.models import load_causal_lm, load_reward_model

    judge, policy = load_reward_model("tiny-distilbert"), load_causal_lm("tiny-gpt2")
    prompts, ns = [question.prompt for question in questions("test")][:32], list(range(1, 17))

    def pool(size: int) -> dict:
        return make_pool(*policy, judge, prompts, size, 48, 0)

    def lab() -> None:
        rewards = pool(32)["reward"]
        best_of_n_curve(rewards, rewards, ns)

    ours, theirs = medians(repeats, lab, lambda: [pool(n)["reward"].max(1) for n in ns])
    return [row("best-of-n curve, n = 1 to 16, from one pool / a pool for every n", ours, theirs, "s", "<= 0.5")]


def start_times(repeats: int) -> list[dict]:
    """`--help` of every script against half a second, and the two NumPy scripts against one empty figure."""
    scripts = [path for path in sorted(SCRIPTS.glob("*.py")) if "make_parser(" in path.read_text(encoding="utf-8")]

    def run(*command) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)

    helps = medians(repeats, *(run(path, "--help") for path in scripts))
    slowest = max(zip(helps, (path.name for path in scripts), strict=True))
    print("--help:", {path.name: round(t, 2) for path, t in zip(scripts, helps, strict=True)}, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        empty = f"import matplotlib.pyplot as p; p.figure().savefig({str(Path(folder, 'empty.png'))!r})"
        names = ("preference_data_explorer.py", "rlhf_objectives.py")
        flags = ("--output-dir", folder, "--figures-dir", folder)
        *ours, figure = medians(repeats, *(run(SCRIPTS / name, *flags) for name in names), run("-c", empty))
    return [
        row(
            f"--help, the slowest of {len(scripts)} scripts ({slowest[1]}) / half a second",
            slowest[0],
            0.5,
            "s",
            "<= 1",
        ),
        *(
            row(f"{name}, the default run / matplotlib saves an empty figure", t, figure, "s", "<= 2.5")
            for name, t in zip(names, ours, strict=True)
        ),
    ]


# --- Results ---


def machine() -> dict:
    """Processor, cores, threads and library versions."""
    import torch

    names = [x.split(":")[1].strip() for x in cpu_info() if x.startswith("model name")]
    packages = ("numpy", "matplotlib", "torch", "transformers", "trl", "peft", "accelerate")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def cpu_info() -> list[str]:
    """The lines of /proc/cpuinfo, none where there is no such file."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def markdown(results: dict) -> str:
    """The table as it stands in the README."""
    host = results["machine"]
    lines = ["| what | the lab | the library's plain use | ratio | target |", "|---|---:|---:|---:|---:|"]
    for r in results["rows"]:
        missed = "" if r["met"] else " (missed)"
        values = f"{r['lab']:.3g} {r['unit']} | {r['library']:.3g} {r['unit']} | {r['ratio']:.2f}"
        lines.append(f"| {r['what']} | {values} | {r['target'].replace('>=', '≥').replace('<=', '≤')}{missed} |")
    growth = [f"{g['what']} as size^{g['exponent']:.2f}" for g in results["growth"]]
    grows = f" Time grows: {'; '.join(growth)}." if growth else ""
    versions = ", ".join(f"{name} {host[name]}" for name in ("python", "torch", "transformers", "trl"))
    told = f"Medians of {results['repeats']} runs in turn.{grows}"
    return "\n".join([*lines, "", told, f"{host['processor']}, {host['cores']} cores; {versions}.", ""])


def main() -> None:
    """Run all contests, print the table, write results.json, results.md and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"), help="results file")
    parser.add_argument("--figures-dir", type=Path, default=ROOT / "figures", help="the PNG goes here")
    parser.add_argument("--only", nargs="*", help="some of the contests, for a look; writes no file")
    parser.add_argument("--memory", choices=("lab", "full"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    quiet_libraries()
    if args.memory:
        keep_freed_memory(args.memory == "lab")
        train_dpo(args.memory, make_pairs(2 * BATCH))
        print(largest_resident_gib())
        return
    contests = (start_times, candidates, reward_training, dpo_training, scoring, n_curve)
    results = {"machine": machine(), "repeats": args.repeats, "rows": [], "growth": []}
    for contest in contests:
        if args.only is None or contest.__name__ in args.only:
            for found in contest(args.repeats):
                print(json.dumps(found), flush=True)
                results["rows"].append(found)
    if args.only is None or "growth" in args.only:
        results["growth"] = measure_growth(args.repeats)
        growth_figure(args.figures_dir / "benchmarks.png", results["growth"])
    table = markdown(results)
    print(table)
    if args.only is None:
        write_json(args.output, results)
        args.output.with_suffix(".md").write_text(table, encoding="utf-8")
        print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

"""DPO: what does training on pairs of answers do to a model?

    python 05-preference-tuning/dpo_trainer.py
    python 05-preference-tuning/dpo_trainer.py --beta 1    # a stronger pull to the SFT model: 67 %
                                                           # of answers right and concise, not 85
    python 05-preference-tuning/dpo_trainer.py --model distilgpt2 --dataset pairs.jsonl  # yours

trained on   768 pairs of answers, labelled by noisy annotators without a bias
by           TRL's DPOTrainer with LoRA; a test checks that dpo_loss below equals TRL's loss
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/dpo_training.png, .json, and outputs/dpo/ (the adapter, and how to load it)

About 40 seconds on one core. A killed training goes on with --resume. Many passes are studied in
studies/too_much_dpo.py, pairs that the model samples itself in studies/on_policy_pairs.py. Several
processes: accelerate launch --multi_gpu --num_processes 2; FSDP is left out.
"""

import contextlib
import copy
import json
import math
import shutil
from pathlib import Path

import installed  # noqa: F401

import numpy as np
from own_data.look import SecondLook
from own_data.read import own_pairs

from common import answers, figures, models, preferences, runs, saving, training
from common.prompts import as_messages
from common.scoring import pair_logps

# --- 1. The loss ---


def dpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta: float
):
    """-log sigmoid(beta h) of each of B pairs, in nats: shape (B,).

    h is log(pi / pi_ref) of the chosen answer (y_w in the paper) minus that of the rejected one
    (y_l). Log-probabilities are natural logarithms (their unit is the nat), summed over the tokens
    of an answer; the reference is the SFT model. At the start h = 0 and the loss is ln 2. Rafailov
    et al. 2023 (arXiv 2305.18290), Eq. 7.
    """
    from torch.nn.functional import logsigmoid

    chosen_logratios = policy_chosen_logps - ref_chosen_logps
    rejected_logratios = policy_rejected_logps - ref_rejected_logps
    return -logsigmoid(beta * (chosen_logratios - rejected_logratios))


# --- 2. Training, and what it leaves ---


def lora_config(model, r: int = 8):
    """The tutorial's LoRA: small matrices of rank r beside the frozen ones of the model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    targets = {"target_modules": "all-linear"}
    if model.config.model_type == "gpt2":  # the tutorial's choice; GPT-2 stores them transposed
        targets = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    # The dropout is the tutorial's. TRL's DPOTrainer turns it off (disable_dropout).
    config = LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=0.1, task_type="CAUSAL_LM", **targets)
    try:
        with torch.device("meta"):  # tried on a model without weights
            get_peft_model(AutoModelForCausalLM.from_config(copy.deepcopy(model.config)), config)
    except ValueError as error:
        reason = f"PEFT cannot adapt a model of the type {model.config.model_type}"
        raise runs.UserError(f"--model: {reason}: {' '.join(str(error).split())}") from None
    return config


def train_dpo(
    model,
    tokenizer,
    pairs,
    *,
    beta: float = 0.3,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 8,
    lora_r: int = 8,
    schedule="linear",  # no flag, as all that follows but seed: its callers set it
    seed: int = 0,
    reference=None,
    trainer_class=None,
    name: str = "DPO",
    look=None,
    look_at=(),
    **settings,  # more of TRL's DPOConfig, such as loss_type
):
    """(policy, history): a LoRA adapter trained on rows of prompt, chosen, rejected; TRL's log.

    TRL takes the model with the adapter off as the reference: one model in memory, not two. If the
    model already has an adapter, give `reference`, what it is held to: that adapter is trained on.
    `look(step, policy)` is called at step 0, every sixth of the way (or `look_at`), at the end.
    """
    import torch
    from trl import DPOConfig, DPOTrainer

    shared = training.trl_settings(model, seed) | training.pair_settings(model, epochs)
    config = DPOConfig(
        beta=beta,
        learning_rate=learning_rate or default_rate(model),
        lr_scheduler_type=schedule,
        warmup_steps=0.1,  # a share of all steps; "constant" has none
        num_train_epochs=epochs,
        per_device_train_batch_size=training.batch_share(batch_size),
        **shared | settings,
    )
    torch.manual_seed(seed)  # LoRA starts at random
    data = {"train_dataset": training.as_dataset(pairs), "processing_class": tokenizer}
    lora = None if reference else lora_config(model, lora_r)
    trainer = (trainer_class or DPOTrainer)(model, reference, config, **data, peft_config=lora)
    history = training.run_trainer(trainer, name, look, look_at, config.resume_from_checkpoint)
    return trainer.model, history


def default_rate(model, embedded: float = 7e-4) -> float:
    """The learning rate that suits a model; that of tiny-gpt2 was found on validation prompts."""
    return embedded if models.is_embedded(model.name_or_path) else 3e-4


def dpo_settings(model, pairs, **given) -> dict:
    """All that shapes a DPO training: equal settings, equal policy."""
    data = {"model": models.fingerprint(model), "pairs": models.fingerprint(pairs)}
    defaults = {**runs.hyperparameters(train_dpo), "learning_rate": default_rate(model), "seed": 0}
    defaults["schedule"] = train_dpo.__kwdefaults__["schedule"]
    return data | defaults | {name: value for name, value in given.items() if value is not None}


def dpo_policy(folder: Path, model, tokenizer, pairs, **settings):
    """The policy of a DPO training: the one in `folder` where it was trained so, else trained."""
    policy = None

    def train() -> tuple:
        nonlocal policy
        policy, _ = train_dpo(model, tokenizer, pairs, **settings)
        return policy, tokenizer

    saving.load_or_train(folder, dpo_settings(model, pairs, **settings), train)
    return policy or models.load_adapter(model, folder)


def measure_pairs(policy, tokenizer, pairs, beta: float) -> dict[str, np.ndarray]:
    """What the policy makes of N pairs, arrays (N,).

    `chosen`, `rejected`: how much log p of the answer has changed since the reference, in nats.
    `margin`: beta times the h of dpo_loss, the difference of the implicit rewards; above 0 the
    pair is `ranked` (1) as labelled. `loss`: that of DPO, in nats.
    """
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)  # each (2, N): chosen, rejected
    chosen, rejected = logps - ref_logps
    margin, loss = beta * (chosen - rejected), dpo_loss(*logps, *ref_logps, beta)
    read = {"chosen": chosen, "rejected": rejected, "margin": margin, "ranked": margin > 0}
    return {name: values.numpy().astype(float) for name, values in {**read, "loss": loss}.items()}


def find_killed_training(folder: Path, settings: dict, resume: bool) -> tuple:
    """(its last whole checkpoint, the looks until there) of a killed training, or (None, [])."""
    if not resume:  # what is left of another training is in the way
        remove_checkpoints(folder)
        return None, []
    states = folder.glob("checkpoint-*/trainer_state.json")  # the last file of a checkpoint
    steps = {saving.read_json(file).get("global_step", 0): str(file.parent) for file in states}
    left, last = saving.read_json(folder / "looks.json"), max(steps, default=0)
    if not last or left.get("settings") != settings:
        reason = f"{folder} holds no killed training with these settings"
        raise runs.UserError(f"--resume: {reason}; leave --resume out")
    print(f"going on from {steps[last]}")
    return steps[last], [look for look in left["looks"] if look["step"] <= last]


def remove_checkpoints(folder: Path) -> None:
    """Remove what a training keeps for the case that it is killed, and nothing else."""
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        shutil.rmtree(state.parent, ignore_errors=True)
    for name in ("looks.json", "README.md"):  # TRL writes the second one
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody's files, or no such folder
        folder.rmdir()


def save_adapter(folder: Path, settings: dict, policy, tokenizer, prompt) -> None:
    """The adapter, with a README that says how to load it."""
    load, here = 'write = pipeline("text-generation", {})', json.dumps(str(folder.resolve()))
    if models.adapter_base(policy.peft_config["default"].base_model_name_or_path):
        load = """\
from common.models import load_causal_lm  # of the lab: the base model is an adapter itself

model, tokenizer = load_causal_lm({})
write = pipeline("text-generation", model, tokenizer=tokenizer)"""
    template = Path(__file__).with_name("how_to_use_an_adapter.md").read_text(encoding="utf-8")
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    chat = json.dumps(as_messages(prompt))
    readme = template.format(settings=told, load=load.format(here), chat=chat)
    saving.save_model(folder, settings, policy, tokenizer, readme=readme)


# --- 3. The figure ---


def draw(history: list[dict], looks: list[dict]):
    """Four panels of the run that was just done; two where nobody knows how good answers are."""
    with_gold, last = "kinds" in looks[0], looks[-1]
    if with_gold:
        good = [100 * look["kinds"][answers.KINDS[0]] for look in (looks[0], last)]
        title = f"DPO: right and concise answers from {good[0]:.0f} % to {good[1]:.0f} %"
    else:
        ranked = f"{last['pairs'] * last['ranked']:.0f} of {last['pairs']}"
        title = f"DPO on your pairs: {ranked} held-out pairs ranked as labelled"
    figure, axes = figures.new_figure(2 if with_gold else 1, 2, title)
    log_panel(axes[0], history)
    sides_panel(axes[1], looks)
    if with_gold:
        kinds_panel(axes[2], looks)
        distance_panel(axes[3], looks)
    for ax in axes[:3]:  # over steps
        ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


def log_panel(ax, history: list[dict]) -> None:
    width, steps = min(12, max(1, len(history) // 6)), np.arange(1, len(history) + 1)
    logged = np.array([[row["loss"], row["rewards/accuracies"]] for row in history])
    loss, ranked = np.array([logged[max(0, k - width) : k].mean(0) for k in steps]).T  # smoothed
    ax.axhline(math.log(2), color="black", lw=0.8, ls=":")
    ax.text(1.01, math.log(2), "ln 2", transform=ax.get_yaxis_transform(), va="center")
    line, label = {"color": "lab:dpo", "lw": 1.6}, "pairs ranked as labelled (share)"
    line["marker"] = "o" if len(steps) < 12 else None  # a point alone makes no line
    ax.plot(steps[width:], ranked[width:], ls="--", mfc="white", label=label, **line)
    ax.plot(steps, loss, label="loss (nats: natural logarithm)", **line)
    ax.set(title="What the training log shows", ylim=(0, 1), ylabel="share of pairs, and nats")
    means = f" (mean of the last {width})" if width > 1 else ""
    ax.set_xlabel(f"step{means}; before training the loss is ln 2")
    figures.legend_below(ax, ncols=1)


def sides_panel(ax, looks: list[dict]) -> None:
    steps, count = [look["step"] for look in looks], looks[0]["first_pairs"]["count"]
    ax.axhline(0, color="black", lw=0.8)
    for side in preferences.SIDES:
        values = [look["first_pairs"][side] for look in looks]
        ax.plot(steps, values, "o-", color=f"lab:{side}", label=f"{side} answers")
        last = f"  {values[-1]:+.{1 if abs(values[-1]) > 0.1 else 2}f}"
        ax.text(steps[-1], values[-1], last.replace("-", "\N{MINUS SIGN}"), va="center")
    ax.set(title="Held-out pairs: which answers became likelier", xlim=(0, 1.16 * steps[-1]))
    ax.set(xlabel=f"step (at each the same {count} pairs)", ylabel="change of log p (nats)")
    figures.legend_below(ax, ncols=2)


def kinds_panel(ax, looks: list[dict]) -> None:
    steps, kinds = [look["step"] for look in looks], looks[0]["kinds"]
    shares = [[100 * look["kinds"][kind] for look in looks] for kind in kinds]
    ax.stackplot(steps, shares, colors=[f"lab:{kind}" for kind in kinds], labels=kinds)
    white = {"color": "white", "fontweight": "bold", "fontsize": 12, "va": "center"}
    for place, side in ((0, "left"), (-1, "right")):
        good = shares[0][place]
        if good >= 8:  # there is room
            ax.text(steps[place], good / 2, f" {good:.0f} % ", ha=side, **white)
    ax.set(title="What the sampled answers are", xlabel="step", ylabel="% of answers")
    ax.set(xlim=(0, steps[-1]), ylim=(0, 100))
    figures.legend_below(ax, ncols=2)


def distance_panel(ax, looks: list[dict], color="lab:dpo", what="step") -> None:
    kl, gold = [look["kl"] for look in looks], [look["gold"] for look in looks]
    ax.axhline(4, color="lab:gold", lw=0.8, ls=":")
    ax.text(0, 4, " 4: every answer right, without filler", va="bottom", color="lab:gold")
    ax.plot(kl, gold, "o-", color=color)
    below = {"xytext": (3, -17), "textcoords": "offset points"}
    for k in {0, len(looks) // 3, len(looks) - 1}:
        ax.annotate(f"{what} {looks[k]['step']}", (kl[k], gold[k]), **below)
    ax.set(title="Quality against distance from the SFT model", xlabel="measured KL (nats)")
    ax.set(ylabel=figures.GOLD, xlim=(0, 1.3 * max(kl)), ylim=(min(gold) - 0.3, 4.2))


# --- 4. The run ---


def train_and_look(model, tokenizer, data, hyper, sampling, folder, resume, second_look) -> tuple:
    """(policy, settings, history, looks): trained on data = (pairs, held-out pairs, prompts).

    `folder` keeps what is needed to `resume` a training that was killed.
    """
    pairs, held, asked = data
    n, few = (1, 16) if second_look else (2, 100)  # answers to a prompt, held-out pairs in a look
    last = hyper["epochs"] * math.ceil(len(pairs) / hyper["batch_size"])
    settings = dpo_settings(model, pairs, **hyper)
    checkpoint, looks = find_killed_training(folder, settings, resume)
    name = Path(model.name_or_path).name
    print(f"{name} on {len(pairs)} pairs, {last} steps; judged by answers to {len(asked)} prompts")
    if second_look:
        second_look.before(pairs, held, model, tokenizer, sampling["seed"])
    sampled = changes = None

    def look(step: int, policy) -> None:
        nonlocal sampled, changes
        count = n + (step in (0, last))  # the first and the last look see more
        rows = held if step == last else list(held)[:few]
        sampled = answers.sample_answers(policy, tokenizer, asked, count, **sampling)
        changes = measure_pairs(policy, tokenizer, rows, hyper["beta"])
        means = {name: float(values.mean()) for name, values in changes.items()}
        training.check_finite("DPO", step, means["loss"], settings["learning_rate"])
        first = {side: float(changes[side][:few].mean()) for side in preferences.SIDES}
        first["count"] = min(few, len(rows))
        means |= {"pairs": len(rows), "first_pairs": first, "texts": sampled.texts[:2]}
        looks.append({"step": step, **sampled.means(), **means})
        saving.write_json(folder / "looks.json", {"settings": settings, "looks": looks})
        if step == 0:
            print(f"loss before training {means['loss']:.4f}, ln 2 = {math.log(2):.4f}")
        if second_look:
            second_look.at(step, policy, tokenizer, rows, sampled, hyper["beta"])

    keep = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}
    keep |= {"output_dir": str(folder), "resume_from_checkpoint": checkpoint}
    policy, history = train_dpo(model, tokenizer, pairs, **hyper, **keep, look=look)
    before, after = looks[0], looks[-1]
    rows = answers.rows_of([before, after])
    rows.append(("held-out pairs ranked as labelled", None, after["ranked"], "% of pairs"))
    answers.print_before_after(asked, before["texts"], after["texts"], rows, 2)
    if second_look and sampled:
        second_look.after(tokenizer, held, sampled, changes, history[0]["loss"])
    logged = ("step", "loss", "rewards/accuracies")
    return policy, settings, [{name: row[name] for name in logged} for row in history], looks


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    at_least_1 = runs.whole_number(1)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    parser.add_argument("--pairs", type=at_least_1, help="default: 768; with --dataset all")
    parser.add_argument("--prompts", type=at_least_1, help="to answer; default: 256 (yours: 16)")
    parser.add_argument("--max-new-tokens", type=at_least_1, default=48, help="default: 48")
    sft = "fine-tuning steps before DPO; default: 0 for tiny-gpt2 or with --dataset, else 300"
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help=sft)
    parser.add_argument("--resume", action="store_true", help="go on with a killed training")
    parser.add_argument("--merge", action="store_true", help="also save the merged model")
    runs.add_dataset_flags(parser)
    rate = "7e-4 for tiny-gpt2, 3e-4 for others"
    runs.add_hyperparameters(parser, train_dpo, learning_rate=rate)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, look on the way, print, draw and save; returns the metrics."""
    smoke = {"pairs": 64, "prompts": 16}
    args = runs.start(build_parser(), argv, "dpo_training", train_dpo, smoke)
    parts = ("dpo", "dpo-checkpoints", "dpo-merged")
    places = [args.output_dir / runs.name_run(part, args.changed) for part in parts]
    adapter, checkpoints, merged = places
    written = [adapter, merged] if args.merge else [adapter]
    saving.check_ours(*written)
    model, tokenizer = training.load_sft_model(args.model, args.device, **args.sft)
    second_look, sampling = None, {"seed": args.seed, "max_new_tokens": args.max_new_tokens}
    next_step = "python 05-preference-tuning/studies/too_much_dpo.py: what do more passes do?"
    if args.dataset:
        sizes = {"pairs": args.pairs, "prompts": args.prompts or 16, **args.reading, **sampling}
        data = own_pairs(args.dataset, tokenizer, **sizes)
        rate = args.learning_rate or default_rate(model)
        second_look = SecondLook(args.dataset, args.reading, args.model, rate, args.max_new_tokens)
        flags = "--model {model} --dataset {dataset}".format(**second_look.flags)
        next_step = f"python 05-preference-tuning/best_of_n.py {flags}  # is it better?"
    else:
        pairs = preferences.make_pairs(args.pairs or 768, seed=args.seed)
        held = preferences.make_pairs(32 if args.smoke else 500, "test", seed=args.seed)
        asked = [q.prompt for q in preferences.questions("test")[: args.prompts or 256]]
        data = pairs, held, asked
    how = args.training, sampling, checkpoints, args.resume, second_look
    policy, settings, history, looks = train_and_look(model, tokenizer, data, *how)
    save_adapter(adapter, settings, policy, tokenizer, data[2][0])
    if args.merge:
        settings["merged"] = True
        saving.save_model(merged, settings, policy.merge_and_unload(), tokenizer)
    remove_checkpoints(checkpoints)
    metrics = {"before": looks[0], "after": looks[-1], "looks": looks, "training": history}
    if second_look:
        metrics |= second_look.metrics()
    return runs.finish(args, metrics, draw(history, looks), next_step, written)


if __name__ == "__main__":
    runs.run(main)

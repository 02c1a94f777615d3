"""DPO's variants: what do IPO, KTO and AI feedback change?

    python 05-preference-tuning/dpo_variants.py
    python 05-preference-tuning/dpo_variants.py --loss-type sigmoid sft   # TRL's, or sums of them
    python 05-preference-tuning/dpo_variants.py --model distilgpt2 --dataset pairs.jsonl  # yours
    python 05-preference-tuning/dpo_variants.py --dataset labels.jsonl --loss-type kto  # good/bad

trained on   384 pairs of answers, labelled by noisy annotators without a bias, in one pass;
             "AI labels": the same pairs, labelled by a language model that says A or B
by           TRL's DPOTrainer and KTOTrainer with LoRA; tests check that ipo_loss and kto_loss below
             equal TRL's; cdpo_loss, which TRL lacks, trains as it stands here
judged by    sampled answers to 256 held-out questions, whose right answers are known
writes       outputs/dpo_variants.png, outputs/dpo_variants.json

About 40 seconds on one core. Left out: training the judge; many passes, ties and wrong labels
(studies/ties_noise_and_margins.py, studies/label_quality.py).
"""

import copy

import installed  # noqa: F401

import dpo_trainer as dpo
import numpy as np
from own_data.look import SecondLook
from own_data.read import own_pairs

from common import answers, figures, models, preferences, prompts, runs, scoring, training

# --- 1. The losses ---
# The log-probabilities of an answer are summed over its tokens, in nats; arrays of pairs are (B,).


def ipo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float,
    chosen_lengths=1,
    rejected_lengths=1,
):
    """(h - 1 / (2 beta))^2 per pair: the margin h has a target, and more is as bad as less; (B,).

    h is the log-ratio of chosen minus that of rejected. With the lengths (B,) of the answers in
    tokens it is a difference of means per token, as in TRL and in the paper's own runs; without
    them, of sums. Azar et al. 2023 (arXiv 2310.12036), Eq. 17, where beta is called tau.
    """
    chosen_logratios = (policy_chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected_logratios = (policy_rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2


def kto_loss(
    policy_logps, ref_logps, labels, kl, beta: float, desirable_weight=1.0, undesirable_weight=1.0
):
    """w (1 - sigmoid(beta gain)) per answer: no pairs are needed, only labels good or bad; (B,).

    The gain of a good answer is its log-ratio minus `kl`, that of a bad one the negative. `kl` >= 0
    is the mean log-ratio of answers to other prompts, through which no gradient flows. `labels` are
    True for good answers. Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 8.
    """
    import torch

    gain = torch.where(labels, policy_logps - ref_logps - kl, kl - policy_logps + ref_logps)
    weight = torch.where(labels, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(beta * gain))


def cdpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta: float, *lengths):
    """Conservative DPO: DPO's loss if one label in ten is wrong, so it stops at h = ln 9 / beta.

    TRL's DPOTrainer lacks it. Log-probabilities (B,) -> (B,); the lengths are not used. Mitchell
    2023 (https://ericmitchell.ai/cdpo.pdf).
    """
    as_labelled = dpo.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
    other_way_round = dpo.dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta)
    return 0.9 * as_labelled + 0.1 * other_way_round


# To add a loss of pairs that TRL lacks: write it above and name it here. Its beta is 0.3, if you
# give it no other below.
OWN_LOSSES = {"cdpo": cdpo_loss}
SINGLE_LOSSES = ("kto", "apo_zero_unpaired")  # of TRL's KTOTrainer, for single answers
PAIR_LOSSES = (  # of TRL's DPOTrainer
    *("sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft"),
)
# Of 0.1, 0.3, 1 and 3 for DPO, IPO and KTO: by sampled answers to validation prompts after two
# passes over 384 pairs, the least KL within 0.02 of the best share of good ones. IPO is per token.
LOSS_BETAS = dict.fromkeys((*PAIR_LOSSES, *SINGLE_LOSSES, *OWN_LOSSES), 0.3)
LOSS_BETAS |= {"ipo": 1.0, "kto": 1.0, "apo_zero_unpaired": 1.0}
RATE = 1.4e-3  # of tiny-gpt2: twice that of dpo_trainer.py, which sees twice as many pairs


# --- 2. Training ---


def train_kto(
    model,
    tokenizer,
    rows,
    *,
    beta: float | None = None,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 8,
    lora_r: int = 8,
    loss_type="kto",
    seed: int = 0,
    name: str = "KTO",
    look=None,
    look_at=(),
):
    """(policy, history): a LoRA adapter trained on pairs, or rows of prompt, completion, label."""
    import torch
    from trl import KTOConfig, KTOTrainer

    data = single_answers(rows, seed)
    good = sum(data["label"])
    config = KTOConfig(
        beta=beta or LOSS_BETAS[loss_type],
        loss_type=loss_type,
        desirable_weight=(len(data) - good) / good,  # good and bad answers count alike
        learning_rate=learning_rate or dpo.default_rate(model, RATE),
        warmup_steps=0.1,  # a share of all steps
        num_train_epochs=epochs,
        per_device_train_batch_size=training.batch_share(2 * batch_size),  # 2 a pair
        **training.pair_settings(model, epochs),
        **training.trl_settings(model, seed),
    )
    torch.manual_seed(seed)  # LoRA starts at random
    rest = {"processing_class": tokenizer, "peft_config": dpo.lora_config(model, lora_r)}
    trainer = KTOTrainer(model, args=config, train_dataset=data, **rest)
    return trainer.model, training.run_trainer(trainer, name, look, look_at)


def single_answers(rows, seed: int):
    """Single answers of pairs, or of rows with a label; shuffled, as KTOTrainer keeps the order."""
    from trl import unpair_preference_dataset

    def in_messages(row: dict) -> dict:
        completion = [{"role": "assistant", "content": row["completion"]}]
        asked = prompts.as_messages(row["prompt"])
        return {"prompt": asked, "completion": completion, "label": row["label"]}

    if "label" in rows[0]:
        return training.as_dataset(rows, in_messages).shuffle(seed)
    return unpair_preference_dataset(training.as_dataset(rows)).shuffle(seed)


def train_variant(losses, model, tokenizer, rows, **settings):
    """(policy, history) of a loss, or of the sum of several of TRL's losses of pairs."""
    from trl import DPOTrainer

    first = losses[0]
    settings["beta"] = settings.get("beta") or LOSS_BETAS[first]
    settings["learning_rate"] = settings.get("learning_rate") or dpo.default_rate(model, RATE)
    model = copy.deepcopy(model)  # LoRA changes it, and every variant starts from the same
    if first in SINGLE_LOSSES:
        return train_kto(model, tokenizer, rows, loss_type=first, **settings)
    if first not in OWN_LOSSES:
        if {"robust", "exo_pair"} & {*losses}:
            settings["label_smoothing"] = 0.1
        return dpo.train_dpo(model, tokenizer, rows, loss_type=list(losses), **settings)

    class OwnLossTrainer(DPOTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            answered = inputs["completion_mask"]  # (2B, T): the chosen answers, then the rejected
            text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
            labels = inputs["input_ids"].masked_fill(answered == 0, -100)  # these count 0
            logps = model(**text, labels=labels, fused_lm_head=True).log_probs.sum(1)  # (2B,)
            ref_logps = self.compute_ref_log_probs(model, inputs)
            both = *logps.chunk(2), *ref_logps
            return OWN_LOSSES[first](*both, self.beta, *answered.sum(1).chunk(2)).mean()

    own = {"trainer_class": OwnLossTrainer, "precompute_ref_log_probs": False}
    return dpo.train_dpo(model, tokenizer, rows, **own, **settings)


def choose_variants(losses, rows) -> list[tuple]:
    """(name, losses, rows) of each training: DPO, beside it the asked losses, or IPO and KTO."""
    if "label" in rows[0]:  # no pairs: only the asked loss can train on them
        return [(losses[0], losses, rows)]
    others = {"+".join(losses): losses} if losses else {"IPO": ("ipo",), "KTO": ("kto",)}
    others.pop("sigmoid", None)  # asked for, it is DPO itself
    return [(name, its, rows) for name, its in {"DPO": ("sigmoid",), **others}.items()]


# --- 3. AI feedback: a language model labels the pairs ---


def averaged_preference(forward, backward):
    """P(chosen is better), both orders averaged; any shape.

    `forward` is P(A) with chosen as A, `backward` with it as B. A judge that says A with
    probability sigmoid(d + b) has a position bias b. It cancels here to first order in b, and
    exactly where the answers are equally good (d = 0).
    """
    return (forward + 1 - backward) / 2


def label_with_judge(judge, tokenizer, pairs) -> list[dict]:
    """The pairs as a language model labels them: swapped where it prefers the rejected answer."""
    shown = []
    for a, b in (preferences.SIDES, preferences.SIDES[::-1]):  # chosen as A, then chosen as B
        for row in pairs:
            prompt = prompts.as_text(row["prompt"])
            shown.append(preferences.judge_prompt(prompt, row[a], row[b]))
    says_a, _ = scoring.judge_first_better(judge, tokenizer, shown)
    prefers_chosen = averaged_preference(*says_a.double().numpy().reshape(2, -1)) > 0.5
    print(f"the judge labels {100 * prefers_chosen.mean():.0f} % of the pairs as they are labelled")
    rows = zip(pairs, prefers_chosen, strict=True)
    return [row if kept else preferences.swap_sides(row) for row, kept in rows]


# --- 4. What is measured ---


def changes_of(policy, tokenizer, rows) -> dict[str, np.ndarray]:
    """By how much log p of chosen and of rejected answers has changed, in nats; (N,) each."""
    if "label" not in rows[0]:
        return dpo.measure_pairs(policy, tokenizer, rows, beta=1.0)
    ids = [prompts.encode_answers(tokenizer, row["prompt"], [row["completion"]]) for row in rows]
    asked, answered = [row[0] for row in ids], [row[1:] for row in ids]
    change = scoring.log_ratios(policy, tokenizer, asked, answered)[:, 0]
    good = np.array(rows["label"])  # these stand for chosen; the bad ones have other prompts
    count = min(good.sum(), (~good).sum())
    return {"chosen": change[good][:count], "rejected": change[~good][:count]}


def train_and_judge(variants: list, model, tokenizer, held, sampling: tuple, settings: dict):
    """(measured, answers, changes of log p), printed; measured by policy, the rest of the last."""
    sampled, changes = answers.sample_answers(model, tokenizer, *sampling), {}
    texts, measured = {"SFT": sampled.texts}, {"SFT": sampled.means()}
    for name, losses, rows in variants:
        policy, history = train_variant(losses, model, tokenizer, rows, name=name, **settings)
        sampled = answers.sample_answers(policy, tokenizer, *sampling)
        changes = changes_of(policy, tokenizer, held)
        h = changes["chosen"] - changes["rejected"]  # the margins
        mean, rate = float(changes["chosen"].mean()), settings["learning_rate"]
        training.check_finite(name, len(history), mean, rate)
        spread = np.percentile(h, (5, 25, 50, 75, 95)).tolist()
        ranks = {"margin": float(h.mean()), "ranked": float((h > 0).mean()), "margins": spread}
        measured[name] = {"first_loss": history[0]["loss"], **sampled.means(), **ranks}
        texts[name] = sampled.texts
    # A question that the tuned policies answer differently, with their answers; then a table.
    asked, *_ = sampling
    firsts = [[row[0] for row in rows] for rows in zip(*texts.values(), strict=True)]  # by question
    k = int(np.argmax([len(set(given[1:])) > 1 for given in firsts]))
    print(f"\n{answers.in_short(asked[k])}")
    for name, text in zip(texts, firsts[k], strict=True):
        print(f"  {name:<12} {answers.in_short(text, 66)}{answers.marks(asked[k], text)}")
    columns = list(measured.values())
    rows = answers.rows_of(columns)
    for what, key, unit in (
        ("held-out pairs ranked as labelled", "ranked", "% of pairs"),
        ("their margin", "margin", "nats"),
        ("loss before training", "first_loss", "ln 2 is 0.69"),
    ):
        rows.append((what, *(column.get(key) for column in columns), unit))
    answers.print_table(("", *measured), rows)
    return measured, sampled, changes


# --- 5. The figure ---

ANSWER_TOKENS = 10  # of an answer, where a loss is drawn that counts per token
COLOR_OF = {"SFT": "sft", "DPO": "dpo", "IPO": "ipo", "KTO": "kto", "AI labels": "ai"}


def draw(measured: dict, beta: float | None, epochs: int, count: int):
    """Four panels of this run; two where nobody knows which answers are good."""
    passes = "one pass" if epochs == 1 else f"{epochs} passes"
    title = f"DPO and its variants after {passes} over {count} rows"
    with_gold = "kinds" in measured["SFT"]
    figure, axes = figures.new_figure(2 if with_gold else 1, 2, title)
    stops_panel(axes[0], LOSS_BETAS if beta is None else dict.fromkeys(LOSS_BETAS, beta))
    if with_gold:
        kinds, plane, names = axes[1], axes[2], list(measured)
        left = np.zeros(len(names))
        for kind in answers.KINDS:  # a bar a policy
            shares = np.array([100 * of["kinds"][kind] for of in measured.values()])
            kinds.barh(names, shares, left=left, color=f"lab:{kind}", label=kind)
            left += shares
        for name, of in measured.items():
            good, color = 100 * of["good"], f"lab:{COLOR_OF.get(name, 'other')}"
            kinds.text(1, name, f"{good:.0f} %", color="white", weight="bold", va="center")
            plane.plot(of["kl"], good, "o", ms=9, color=color, label=name)
        kinds.invert_yaxis()
        kinds.set(title="What the sampled answers are", xlabel="% of answers", xlim=(0, 100))
        plane.set(title="Good answers, and what they cost in KL", xlabel="measured KL (nats)")
        plane.set(ylabel="right and concise (% of answers)", ylim=(0, 100))
        figures.legend_below(kinds, ncols=2)
        figures.legend_below(plane, ncols=3)
    ax = axes[-1]
    for name, of in list(measured.items())[1:]:  # all but the SFT model
        low, left, middle, right, high = of["margins"]
        label = f"{name}\n{100 * of['ranked']:.0f} % above 0"
        ax.plot((low, high), (label, label), "k|-", lw=1, ms=10)
        color = f"lab:{COLOR_OF.get(name, 'other')}"
        ax.barh(label, right - left, 0.6, left, color=color, edgecolor="black", zorder=2)
        ax.plot((middle, middle), (label, label), "k|", ms=18)
    ax.axvline(0, color="black", lw=0.8, ls=":")
    ax.invert_yaxis()
    ax.set(title="Margins of held-out pairs", xlabel="margin h (nats); box: half of the pairs")
    return figure


def stops_panel(ax, betas: dict[str, float]) -> None:
    """Every loss over the margin of a pair, as a share of the loss at 0, and where it is least."""
    import torch

    h = torch.linspace(-10, 25, 351, dtype=torch.float64)
    zero = torch.zeros_like(h)
    pair = h / 2, -h / 2, zero, zero  # half of the margin comes from each of the two answers
    good = torch.tensor([[True], [False]])  # the chosen answer is, the rejected is not
    curves = {
        "DPO": dpo.dpo_loss(*pair, betas["sigmoid"]),
        "conservative DPO": cdpo_loss(*pair, betas["cdpo"]),
        "IPO": ipo_loss(*pair, betas["ipo"], ANSWER_TOKENS, ANSWER_TOKENS),
        "KTO": kto_loss(torch.stack(pair[:2]), zero, good, 0, betas["kto"]).sum(0),
    }
    for name, loss in curves.items():
        color, least = f"lab:{COLOR_OF.get(name, 'other')}", int(loss.argmin())
        loss, stops = loss / loss[100], least < len(h) - 1  # h[100] is 0
        told = f"stops at {h[least]:.1f}" if stops else "never stops"
        ax.plot(h, loss, color=color, label=f"{name}: {told}")
        ax.plot(h[least], loss[least], "v" if stops else "", color=color, ms=9)
    ax.axvline(0, color="black", lw=0.8, ls=":")
    ax.set(title="The losses, and the margin at which each stops", ylim=(-0.1, 2.2))
    ax.set_xlabel(f"margin h of a pair (nats; answers of {ANSWER_TOKENS} tokens)")
    ax.set_ylabel("loss, as a share of\nthe loss at margin 0")
    figures.legend_below(ax, ncols=2)


# --- 6. The run ---


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    at_least_1 = runs.whole_number(1)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    losses = f"beside DPO, one or a sum of: {', '.join(LOSS_BETAS)}; default: IPO, KTO"
    parser.add_argument("--loss-type", nargs="+", choices=LOSS_BETAS, metavar="LOSS", help=losses)
    judge = "a language model that labels; default: tiny-gpt2, for your own pairs none"
    parser.add_argument("--judge", type=runs.non_empty, help=judge)
    parser.add_argument("--pairs", type=at_least_1, help="default: 384 of the world, all yours")
    parser.add_argument("--prompts", type=at_least_1, default=256, help="of the world, to judge by")
    parser.add_argument("--max-new-tokens", type=at_least_1, default=48, help="of sampled answers")
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before DPO; default: 300")
    runs.add_dataset_flags(parser)
    rate, beta = "1.4e-3 for tiny-gpt2, 3e-4 for others", "1 for IPO and KTO, 0.3 for others"
    runs.add_hyperparameters(parser, train_kto, learning_rate=rate, beta=beta)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train every variant, judge, print, draw; returns the metrics."""
    args = runs.start(build_parser(), argv, "dpo_variants", train_kto, {"pairs": 32, "prompts": 8})
    losses, second, judge = tuple(args.loss_type or ()), None, args.judge
    if len(losses) > 1 and not {*losses} <= {*PAIR_LOSSES}:
        alone = ", ".join((*SINGLE_LOSSES, *OWN_LOSSES))
        raise runs.UserError(f"--loss-type: {alone} cannot be part of a sum")
    model, tokenizer = training.load_sft_model(args.model, args.device, **args.sft)
    tokens, rate = args.max_new_tokens, args.learning_rate or dpo.default_rate(model, RATE)
    if args.dataset:
        reading = {"pairs": args.pairs, "max_new_tokens": tokens, **args.reading}
        reading["labelled"] = bool({*losses} & {*SINGLE_LOSSES}) and not judge
        rows, held, asked = own_pairs(args.dataset, tokenizer, args.seed, **reading)
        second = SecondLook(args.dataset, args.reading, args.model, rate, tokens)
    else:
        rows = preferences.make_pairs(args.pairs or 384, seed=args.seed)
        held = preferences.make_pairs(32 if args.smoke else 300, "test", seed=args.seed)
        asked = [question.prompt for question in preferences.questions("test")[: args.prompts]]
        judge = judge or (None if losses else "tiny-gpt2")
    print(f"{args.model} on {len(rows)} rows, {len(asked)} prompts to judge by")
    if second:
        second.before(rows, held, model, tokenizer, args.seed)
    variants = choose_variants(losses, rows)
    if judge:
        labelled = label_with_judge(*models.load_causal_lm(judge, args.device), rows)
        variants.append(("AI labels", ("sigmoid",), labelled))

    ask = asked, (1 if second else 2), args.seed, tokens
    hyper = {**args.training, "learning_rate": rate}
    measured, *last = train_and_judge(variants, model, tokenizer, held, ask, hyper)
    metrics = {"variants": measured}
    if second:  # of the last one: the AI labels', where a judge labels, else the asked loss
        second.after(tokenizer, held, *last)
        metrics |= second.metrics()
    figure = draw(measured, args.beta, args.epochs, len(rows))
    next_step = "python 05-preference-tuning/studies/ties_noise_and_margins.py: which loss lasts?"
    return runs.finish(args, metrics, figure, next_step)


if __name__ == "__main__":
    runs.run(main)

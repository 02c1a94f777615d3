"""The figure of rlhf_objectives.py: what the KL term buys above, the machinery below."""

from support.drawing import COLORS, Drawing, curve, draw_band, draw_point

BROWN = "#8C564B"  # PPO without clipping; no colour of another meaning in the lab
LINES = ((0, ":"), (2, "--"), (4, "-"))  # places in the list of epochs
ARMS = (("with_kl", "-", "with the KL term"), ("without_kl", "--", "without"))


def draw_objectives(metrics: dict, default: dict | None = None) -> Drawing:
    """Six panels, from the metrics of one seed or of several."""
    start, end = metrics["start"]["gold"]["mean"], metrics["end"]
    kept, lost = (end[name]["gold"]["mean"] for name, *_ in ARMS)
    favourite = end["without_kl"]["favourite"]["mean"]
    ends = "where the formula says" if reaches_optimum(metrics) else "not yet at the optimum"
    title = f"Without its KL term PPO ends with {favourite:.1%} on the answer that is rewarded "
    title += f"most: quality {start:.2f} → {lost:.2f};\n"
    title += f"with it quality ends at {kept:.2f}, {ends}"
    return Drawing(title, PANELS, metrics, default, height=3.6)


def reaches_optimum(metrics: dict) -> bool:
    """Whether PPO with the KL term ends within a total variation of 0.01."""
    return metrics["end"]["with_kl"]["distance"]["mean"] < 0.01


def updates_panel(ax, metrics: dict, default: dict | None) -> None:
    """Proxy and gold utility during training, with the KL term and without.

    Shown: what is rewarded and what is wanted, during PPO on a policy with a known optimum.
    Notice: at first both rise; without the KL term the reward goes on and quality turns.
    Ask: Where would you stop if you saw only the orange line?
    """
    curves = metrics["curves"]
    if default:
        for name in ("proxy", "gold"):
            means = curve(default["curves"]["with_kl"][name])[0]
            label = "the default run" if name == "gold" else None
            ax.plot(default["curves"]["updates"], means, color=COLORS["default"], label=label)
    for name in ("proxy", "gold"):
        for arm, line, _ in ARMS:
            rows = curve(curves[arm][name])
            draw_band(ax, curves["updates"], *rows, COLORS[name], None, ls=line)
    for name, text in (("proxy", "what is rewarded"), ("gold", "quality (gold)")):
        ax.plot([], [], color=COLORS[name], label=text)
    for _, line, text in ARMS:
        ax.plot([], [], color="black", ls=line, label=text)
    gold = [seen["mean"] for seen in curves["without_kl"]["gold"]]
    verb = "falls" if gold[-1] < gold[0] else "ends lower than its peak"
    ax.set(title=f"Without the KL term reward\nrises and quality {verb}", xscale="symlog")
    ax.set(xlabel="PPO updates", ylabel="utility (log-odds)")
    ax.set_xticks((0, 1, 10, 100), (0, 1, 10, 100))
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper left")


def optimum_panel(ax, metrics: dict, default: dict | None) -> None:
    """What the optimum for every beta earns against its KL, and where PPO ended.

    Shown: the formula's optimum for every beta, and where PPO with and without KL term ended.
    Notice: PPO ends on the curve: it finds what the closed form says, with much more work.
    Ask: Which beta would you choose, and what would you have to know for it?
    """
    optimum, end = metrics["optimum"], metrics["end"]
    kl = curve(optimum["kl"])[0]
    for name in ("proxy", "gold"):
        draw_band(ax, kl, *curve(optimum[name]), COLORS[name], None)
        for arm, marker in (("with_kl", "o"), ("without_kl", "X")):
            marks = {"marker": marker, "mec": "black", "ms": 9, "zorder": 3}
            draw_point(ax, end[arm]["kl"], end[arm][name], COLORS[name], None, **marks)
    for marker, text in (("o", "PPO, with the KL term"), ("X", "PPO, without")):
        ax.plot([], [], marker, color="white", mec="black", ms=8, label=text)
    ax.plot([], [], color="black", label="optimum for each β")
    best = curve(optimum["gold"])[0].argmax()
    beta = optimum["beta"][best]
    ends = "on the curve of the formula" if reaches_optimum(metrics) else "short of its optimum"
    ax.set_title(f"Quality is best at β = {beta:.1f};\nPPO ends {ends}")
    ax.set(xlabel="measured KL(π || reference), nats", ylabel="utility (log-odds)")
    ax.legend(loc="center right")


def settings_panel(ax, metrics: dict, default: dict | None) -> None:
    """Distance to the optimum by learning rate, for few and many epochs, clipped or not.

    Shown: how far from the optimum PPO ends, by learning rate and passes over a batch.
    Notice: the clip pays where one batch is used many times; at small rates it does nothing.
    Ask: Why use a batch more than once at all? (Sampling costs more than a gradient step.)
    """
    sensitivity = metrics["sensitivity"]
    rates, epochs = sensitivity["rates"], sensitivity["epochs"]
    arms = (("unclipped", BROWN, "without clipping"), ("clipped", "black", "clipped"))
    for arm, color, text in arms:
        ax.plot([], [], color=color, label=text)
        for k, line in LINES:
            draw_band(ax, rates, *curve(sensitivity[arm][k]), color, None, ls=line, marker=".")
    for k, line in LINES:
        plural = "epoch" if epochs[k] == 1 else "epochs"
        ax.plot([], [], color="grey", ls=line, label=f"{epochs[k]:.0f} {plural}")
    farthest = max(cell["mean"] for k, _ in LINES for cell in sensitivity["clipped"][k])
    but = "unless clipped" if farthest < 0.25 else "even where clipped"
    ax.set(title=f"A high learning rate and many epochs\ngo astray {but}", xscale="log")
    ax.set(xlabel="learning rate", ylabel="distance to the optimum\n(total variation)")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_ylim(-0.03, 1.55)
    ax.set_yticks((0, 0.25, 0.5, 0.75, 1))
    ax.legend(loc="upper left", ncols=2, title="epochs: over the same batch", title_fontsize=9)


def clip_panel(ax, metrics: dict, default: dict | None) -> None:
    """The clipped surrogate of a good and of a bad response, with where its gradient dies.

    Shown: the objective of one response, by how much its probability has changed.
    Notice: the flat parts are where the change has gone far enough in the wished direction.
    Ask: Why is the lower line not flat on the right? (A bad step may always be taken back.)
    """
    clip = metrics["clip"]
    epsilon, ratio = clip["epsilon"], clip["ratio"]
    for name, side, color in (("up", 1, COLORS["chosen"]), ("down", -1, COLORS["rejected"])):
        ax.plot(ratio, clip[name], color=color)
        dead = (1 + epsilon, 2) if side > 0 else (0, 1 - epsilon)
        level = clip[name][3] if side > 0 else clip[name][1]
        ax.fill_between(dead, 0, level, color=color, alpha=0.2, linewidth=0)
        if dead[1] - dead[0] > 0.3:
            ax.text(sum(dead) / 2, level / 2, "no\ngradient", ha="center", va="center")
    better, worse = "better than expected: A = 1", "worse than expected: A = -1"
    ax.text(0, 1 + epsilon + 0.25, better, color="#1F77A8", va="center")
    ax.text(0, -1.75, worse, color=COLORS["rejected"], va="center")
    ax.set_title(f"Beyond a change of {epsilon:.0%} nothing is\ngained by going on")
    ax.set(xlabel="probability / probability before the update", ylabel="clipped objective")
    ax.set_ylim(-2.1, 1.5 + epsilon)


def advantages_panel(ax, metrics: dict, default: dict | None) -> None:
    """Advantages of three tokens from TD errors to returns.

    Shown: the advantage of each token of a short answer that is rewarded at its end.
    Notice: the last token does not depend on lambda; the first one depends on it most.
    Ask: Which end is biased, and which is noisy? (Left: the values err. Right: samples vary.)
    """
    advantages = metrics["advantages"]
    rows, blank = advantages["advantages"], {"fc": "white", "ec": "none", "pad": 1}
    for t, shade in enumerate(("#000000", "#555555", "#999999")):
        ax.plot(advantages["lam"], [row[t] for row in rows], color=shade)
        ax.text(1.02, rows[-1][t], f"token {t + 1}", color=shade, va="center", bbox=blank)
    gamma = f"γ = {advantages['gamma']:g}"
    ax.set_title(f"λ chooses what to trust, the values or\nthe samples ({gamma})")
    ax.set(xlabel="λ:  0 = TD errors, 1 = returns - values", xlim=(0, 1.22))
    ax.set_ylabel("advantage (rewards 0, 0, 1;\nvalues .5, .6, .7)")


def memory_panel(ax, metrics: dict, default: dict | None) -> None:
    """GB of weights by method, and of AdamW's moments.

    Shown: what each method holds in memory; dark is trained, pale is only read.
    Notice: LoRA saves more in the optimizer (second number) than in the weights.
    Ask: Why does DPO need no reward model in memory? (The policy's log-ratio is the reward.)
    """
    held = metrics["memory"]["7B"]
    colors = {"PPO": "sft", "PPO + LoRA": "sft", "best-of-n": "best_of_n"}
    for method, row in held.items():
        color, left = COLORS[colors.get(method, "dpo")], 0.0
        for role, size in row["by_role"].items():
            alpha = 0.9 if role in row["trained_roles"] else 0.35
            ax.barh(method, size, left=left, color=color, alpha=alpha, edgecolor="white")
            if size > 1:
                ax.text(left + size / 2, method, role, ha="center", va="center", fontsize=7.5)
            left += size
        adamw = row["adamw_gb"]
        digits = 2 if 0 < adamw <= 1 else 0
        ax.text(left + 1, method, f"{left:.0f} + {adamw:.{digits}f}", va="center", fontsize=9)
    gb = {method: f"{row['weights_gb']:.0f}" for method, row in held.items()}
    title = f"DPO halves PPO's weights, {gb['PPO']} to {gb['DPO']} GB;\nLoRA halves both"
    ax.set(title=f"{title}, {gb['PPO + LoRA']} to {gb['DPO + LoRA']} GB", xlim=(0, 78))
    ax.set_xlabel("GB for 7B: fp16 weights + AdamW")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


PANELS = (
    updates_panel,
    optimum_panel,
    settings_panel,
    clip_panel,
    advantages_panel,
    memory_panel,
)

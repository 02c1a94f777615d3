"""What the scripts of other sections train by default: found again, or trained now.

The folder is the one that the section's own script would write, so that either may come first.
"""

from collections.abc import Callable
from pathlib import Path

from support.artifacts import find_or_train, trained_settings
from support.start import Start, start_from_sft
from support.training import training_settings

from common.cli import name_run

# Of each method the folder's name, and the values that its script's flags have by default.
SCRIPTS = {
    "dpo": ("dpo", {"model": "tiny-gpt2", "beta": 0.3, "max_new_tokens": 48, "seed": 0}),
    "reward model": ("reward_model", {"model": "tiny-distilbert", "annotator": "human", "seed": 0}),
}
SMOKE = {"pairs": 64, "num_train_epochs": 1}
# The flags that `start_beside_dpo` takes as they are.
START_FLAGS = ("model", "dataset", "seed", "smoke", "sft_steps", "max_new_tokens", "lora_r")
START_FLAGS += ("reward_backbone", "reward_model")


def find_trained(
    method: str, tune: Callable[..., tuple], *, output_dir: Path, device: str, smoke: bool, **flags
) -> Path:
    """The folder of what `method`'s script saves with these flags; `tune` trains what is missing.

    `annotator`, which is no flag of the script, is a group of annotators of the world.
    """
    folder, defaults = SCRIPTS[method]
    given = {flag: value for flag, value in flags.items() if value is not None}
    given |= given.pop("reading", {})  # single flags of the script
    changed = {flag: value for flag, value in given.items() if value != defaults.get(flag)}
    settings = training_settings(method, **(flags | SMOKE if smoke else flags))
    if "annotator" in changed:
        settings["annotator"] = changed["annotator"]
    if smoke:
        changed["smoke"] = True
    place = output_dir / name_run(folder, changed)
    return find_or_train(place, settings, tune, output_dir=output_dir, device=device)


def find_judges(
    tune: Callable[..., tuple],
    given: Path | None,
    *,
    dataset: str | None,
    as_many_pairs: int | None = None,
    **flags,
) -> dict[str, Path]:
    """Folders of reward models: "human", which may be `given`, and, in the world, "length".

    The annotators of "length" love length. With a number, "as_many_pairs" has only so many.
    """
    method = ("reward model", tune)
    judges = {"human": given or find_trained(*method, dataset=dataset, **flags)}
    if dataset is None:
        if as_many_pairs:
            few = find_trained(*method, dataset=None, pairs=as_many_pairs, **flags)
            judges["as_many_pairs"] = few
        judges["length"] = find_trained(*method, dataset=None, annotator="length", **flags)
    return judges


def start_beside_dpo(
    tune_dpo: Callable[..., tuple],
    tune_reward_model: Callable[..., tuple],
    *,
    model: str,
    dataset: str | None,
    seed: int,
    smoke: bool,
    sft_steps: int | None,
    max_new_tokens: int,
    lora_r: int | None,
    reward_backbone: str,
    reward_model: Path | None,
    beta: float,
    prompts: int | None,
    adapter: Path | None = None,
    few: bool = False,
    reading: dict[str, str] | None = None,
    **machine,
) -> tuple[Start, dict[str, Path], Path]:
    """The SFT checkpoint with its data, folders of reward models, and that of DPO's adapter.

    What is not given and not found is trained first. With `few`, one reward model has as many pairs
    as DPO (see `find_judges`). `machine` are output_dir and device.
    """
    shared = {"dataset": dataset, "reading": reading or None, "seed": seed}
    policy = {"model": model, "sft_steps": sft_steps, "beta": beta, **shared}
    policy |= {"max_new_tokens": max_new_tokens, "lora_r": lora_r}
    settings = training_settings("dpo", **policy, **(SMOKE if smoke else {}))
    start = start_from_sft(**settings, **machine, prompts=prompts)
    judge = {"model": reward_backbone, "smoke": smoke, **shared, **machine}
    judge["as_many_pairs"] = settings["pairs"] if few else None
    judges = find_judges(tune_reward_model, reward_model, **judge)
    trained = adapter or find_trained("dpo", tune_dpo, smoke=smoke, **policy, **machine)
    return start, judges, trained


def label_counts(folders: dict[str, Path]) -> dict[str, int | None]:
    """How many labelled pairs each model was trained on; None where the folder does not say."""
    settings = {name: trained_settings(folder) or {} for name, folder in folders.items()}
    return {name: its_settings.get("pairs") for name, its_settings in settings.items()}

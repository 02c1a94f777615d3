"""How every script starts and ends: flags, one-line errors, the device, the files that it writes.

Nothing here imports torch, so that `--help` answers at once.
"""

import argparse
import contextlib
import hashlib
import inspect
import io
import logging
import os
import platform
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when imported

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "figures"  # the committed run; only `make figures` writes there
# Flags that change where a run writes and what it says, but nothing that it measures.
NOT_A_SETTING = ("output_dir", "device", "resume", "merge")
# Flags that say how --dataset is read.
READING = ("split", "config", "prompt_column", "chosen_column", "rejected_column")
# Flags that name a model: a hub id, a folder, or one of the embedded models.
MODEL_FLAGS = ("model", "reward_backbone", "judge")
# Flags that shape what one lesson trains for another.
OF_TRAINED = (
    "model",
    "reward_backbone",
    "dataset",
    *READING,
    "pairs",
    "seed",
    "smoke",
    "sft_steps",
)
PACKAGES = ("numpy", "torch", "transformers", "datasets", "trl", "peft", "accelerate", "matplotlib")
HELP = {
    "beta": "how strongly the policy is held to its reference",
    "epochs": "passes over the data",
    "batch_size": "rows a step, over all processes",
    "learning_rate": "of AdamW at its highest",
    "lora_r": "rank of the LoRA adapter",
    "schedule": "of the learning rate",
}


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, what to do."""


# --- Flags ---


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """The parser of a script (its __file__ and __doc__), with the flags that all scripts have."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(Path(script).name, description=description, formatter_class=as_written)
    seed = "seed of data, training and sampling; default: 0"
    parser.add_argument("--seed", type=whole_number(0), default=0, help=seed)
    where = "results, figures and what was trained go here; default: outputs"
    parser.add_argument("--output-dir", type=folder, default=Path("outputs"), help=where)
    devices = ("auto", "cuda", "mps", "cpu")
    parser.add_argument("--device", default="auto", choices=devices, help="where to compute")
    smoke = "the smallest run that still takes every path"
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """--dataset: the user's own pairs, and how they are read (READING)."""
    formats = "JSON, JSONL, CSV, Parquet, packed or not, a folder, a hub id"
    own = f"your own pairs (prompt, chosen, rejected): {formats}; default: the lab's world"
    parser.add_argument("--dataset", type=non_empty, action=Once, help=own)
    parser.add_argument("--split", type=non_empty, help="of --dataset; default: train")
    parser.add_argument("--config", type=non_empty, help="of --dataset, where it has several")
    for role in ("prompt", "chosen", "rejected"):
        column = f"the column of --dataset that holds it; default: {role}, or a usual name for it"
        parser.add_argument(f"--{role}-column", type=non_empty, metavar="COLUMN", help=column)


class Once(argparse.Action):
    """A flag that may be given once: the second of two data sets would be read alone."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice; join the files into one")
        setattr(namespace, self.dest, values)


def add_hyperparameters(parser: argparse.ArgumentParser, train: Callable, **texts: str) -> None:
    """A flag for every keyword-only number or text of `train`, with the default that stands there.

    A default of None depends on the model; `texts` says how.
    """
    group = parser.add_argument_group("training")
    for name in hyperparameters(train):
        default = inspect.signature(train).parameters[name].default
        kinds = {int: whole_number(1), float: positive_float, str: non_empty}
        kind = float if default is None else type(default)
        told = f"{HELP.get(name, name.replace('_', ' '))}; default: {texts.get(name, default)}"
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kinds[kind], default=default, metavar="N", help=told)


def hyperparameters(train: Callable) -> list[str]:
    """The names of the keyword-only numbers and texts that a training function takes."""
    names = []
    for name, parameter in inspect.signature(train).parameters.items():
        simple = re.fullmatch(r"(int|float|str)( \| None)?", _annotation(parameter))
        if parameter.kind is parameter.KEYWORD_ONLY and simple and name not in ("seed", "name"):
            names.append(name)
    return names


def _annotation(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def whole_number(minimum: int) -> Callable[[str], int]:
    """argparse type: an integer of at least `minimum`, and less than 2**32 (NumPy's seeds)."""

    def parse(text: str) -> int:
        if not minimum <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum} and {2**32 - 1}")
        return int(text)

    parse.__name__ = "whole number"
    return parse


def positive_float(text: str) -> float:
    """argparse type: a number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def fraction(text: str) -> float:
    """argparse type: a number between 0 and 1, both left out."""
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


def folder(text: str) -> Path:
    """argparse type: the name of a folder."""
    return Path(non_empty(text))


def non_empty(text: str) -> str:
    """argparse type: a text that is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


# --- The start ---


def start(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    name: str,
    train: Callable | None = None,
    smoke: dict[str, int] | None = None,
) -> argparse.Namespace:
    """Parse the command line and check all that can be checked before work begins.

    Adds to the flags: `changed`, those that differ from their defaults; `settings`, all that shape
    what is measured; `reading`, those given of READING; `training`, what `train` takes of them;
    `run_name`, under which the run writes its files. With --smoke the values of `smoke` are upper
    limits. Raises UserError for folders that cannot be written and models that are not there.
    """
    from common.saving import check_results, check_writable

    args = parser.parse_args(argv)
    given = {flag: value for flag, value in vars(args).items() if flag not in NOT_A_SETTING}
    args.changed = {k: v for k, v in given.items() if v != parser.get_default(k)}
    args.run_name, args.script, args.started = (
        name_run(name, args.changed),
        parser.prog,
        time.time(),
    )
    for flag, most in (smoke or {}).items() if args.smoke else ():
        setattr(args, flag, most if given[flag] is None else min(given[flag], most))
    args.reading = {flag: given[flag] for flag in READING if given.get(flag)}
    if args.reading and not args.dataset:
        flag = next(iter(args.reading)).replace("_", "-")
        raise UserError(f"--{flag} says how your data are read: give them with --dataset")
    args.settings = {flag: getattr(args, flag) for flag in given}
    args.training = {"seed": args.seed}
    args.training |= {flag: getattr(args, flag) for flag in hyperparameters(train)} if train else {}
    check_writable(args.output_dir)
    check_results(args.output_dir, args.run_name)
    names = [getattr(args, flag, None) for flag in MODEL_FLAGS]
    if any(names):
        from common.models import find_model

        for model in filter(None, names):
            find_model(str(model))
        quiet_libraries()
        args.device = init_compute(args.device)
    return args


def name_run(name: str, changed: dict, longest: int = 150) -> str:
    """A file name that says what differs: dpo_training, dpo_training-beta-0.1, ...-smoke.

    Two different values never share a name: what a name cannot hold is told apart by a hash.
    """
    parts = [name]
    for flag, value in sorted(changed.items()):
        parts.append(flag.replace("_", "-"))
        if value is not True:
            values = value if isinstance(value, list | tuple) else [value]
            parts += [str(v) if isinstance(v, int | float) else _slug(str(v)) for v in values]
    full = "-".join(parts)
    if len(full.encode()) <= longest:
        return full
    return f"{name}-{'-'.join(flag.replace('_', '-') for flag in sorted(changed))}-{_hash(full)}"


def _slug(text: str, longest: int = 40) -> str:
    """A text as part of a file name; where it cannot stand as it is, with a hash of the whole."""
    slug = re.sub(r"[^\w.]+", "_", text).strip("_.")[-longest:]
    return slug if slug == text else f"{slug}_{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def trained_folder(args: argparse.Namespace, name: str, without: tuple[str, ...] = ()) -> Path:
    """Where the lesson that trains NAME keeps it, run with the flags that this run shares with it.

    `without` names flags of this run that are not its flags, too.
    """
    shared = {k: v for k, v in args.changed.items() if k in OF_TRAINED and k not in without}
    return args.output_dir / name_run(name, shared)


# --- The end ---


def finish(
    args: argparse.Namespace,
    metrics: dict,
    figure,
    next_step: str,
    trained: Iterable[Path] = (),
    settings: dict | None = None,
) -> dict:
    """Write the JSON and the figure, say where, and what to try next; returns the metrics.

    `settings` are what the script made of the flags (a default learning rate), `trained` the
    folders that it wrote.
    """
    from common.figures import save_figure
    from common.saving import write_json

    seconds = round(time.time() - args.started, 1)
    written = [args.output_dir / f"{args.run_name}.{end}" for end in ("png", "json")]
    content = {
        "script": args.script,
        "settings": {**args.settings, **(settings or {})},
        "versions": versions(),
        "seed": args.seed,
        "device": args.device,
        "wall_seconds": seconds,
        "metrics": metrics,
    }
    write_json(written[1], content)  # before the figure: a PNG without its JSON would be strange
    save_figure(figure, written[0])
    print(f"\nwrote {', '.join(map(str, [*written, *trained]))}   ({seconds:.0f} s)")
    print(f"next  {next_step}")
    return metrics


def versions() -> dict[str, str]:
    """Of Python and of the libraries that are installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def run(main: Callable[[], object]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit code 2, Ctrl-C one and 130."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and process_count() == 1:
        signal.signal(signal.SIGTERM, _end)  # `kill` cleans up like Ctrl-C
    try:
        silence = contextlib.redirect_stdout(io.StringIO())
        with contextlib.nullcontext() if is_main_process() else silence:
            main()
    except UserError as error:
        sys.exit(_complain(f"error: {error}", 2))
    except ModuleNotFoundError as error:
        if error.name and (error.name.split(".")[0] == "common" or (ROOT / error.name).exists()):
            raise  # a fault of the lab
        sys.exit(_complain(f"error: {missing_package(error.name)}", 2))
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that became unwritable
        sys.exit(_complain(f"error: {error}", 2))
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        sys.exit(_complain("interrupted", 128 + number))


def _end(number: int, frame) -> None:
    raise KeyboardInterrupt(number)


def missing_package(name: str | None) -> str:
    """What to say where a package is not installed: activate, or install."""
    activate = ROOT / ".venv" / "bin" / "activate"
    todo = f'cd {ROOT} && pip install -e ".[hf,training]"'
    if activate.is_file() and Path(sys.prefix).resolve() != activate.parents[1].resolve():
        todo = f"source {activate}"
    return f"no package {name} in this Python; type: {todo}"


def _complain(message: str, code: int) -> int:
    if is_main_process():
        print(" ".join(message.split()), file=sys.stderr)
    return code


# --- Processes, libraries, progress, device ---


def is_main_process() -> bool:
    """Whether this process speaks and writes files: the first that `accelerate launch` starts."""
    return int(os.environ.get("RANK", 0)) == 0


def process_count() -> int:
    """How many processes `accelerate launch` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and warnings about defaults out of the terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    import datasets
    import transformers

    logging.getLogger("trl").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"  # TRL's bars; set here, since it hides all if tqdm finds it


def show_progress(items: Iterable, what: str) -> Iterable:
    """The items, behind a progress bar in a terminal once two seconds have passed."""
    from tqdm import tqdm

    hidden = None if is_main_process() else True  # None: shown where there is a terminal
    return tqdm(items, desc=what, delay=2, leave=False, disable=hidden)


def init_compute(device: str) -> str:
    """Make ready to compute: "auto" becomes cuda, mps or cpu; of several processes each has a GPU.

    Raises UserError for a device that is not there.
    """
    import ctypes
    import gc

    import torch
    from accelerate import PartialState

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = {"cuda": cuda, "mps": mps, "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available[device]:
        raise UserError(f"--device {device}: PyTorch finds no such device; use --device auto")
    if device == "cpu":  # glibc keeps freed tensors: giving them back costs up to half of a step
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(-4, 0)  # M_MMAP_MAX
            mallopt(-1, -1)  # M_TRIM_THRESHOLD
    state = PartialState(cpu=device == "cpu")
    gc.freeze()  # what the libraries hold need not be searched for garbage at every training
    several = device == "cuda" and state.num_processes > 1
    return f"cuda:{state.local_process_index}" if several else device

"""The command line that all scripts share: flags, `start`, one-line errors, the device.

Nothing here imports torch, so that `--help` answers at once; scripts import heavy libraries where
they use them.
"""

import argparse
import atexit
import contextlib
import ctypes
import gc
import hashlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when imported

# Flags that change where a run writes and what it says, but nothing that it measures.
NOT_A_SETTING = ("output_dir", "figures_dir", "device", "claims", "panels", "resume", "merge")
# Flags that say how --dataset is read.
READING = ("split", "config", "prompt_column", "chosen_column", "rejected_column")
# Flags that name a model: a hub id, a folder, or one of the embedded models.
MODEL_FLAGS = ("model", "reward_backbone", "reward_model", "judge")
# What the libraries say where another process of the run is gone.
LOST = r"Connection (closed|reset) by peer|Broken pipe|remote process exit"
# Signals to end, beside Ctrl-C: of `kill`, and of a terminal that is closed (not on Windows).
ENDING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, what to do."""


# --- Flags ---

# What a flag that names a trained model stands for when it is left out.
OR_TRAINED = "default: the one in the output folder, trained first where it is missing"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        no_default = action.default is None or action.default is False
        return action.help if no_default else super()._get_help_string(action)


def bare_parser(script: str, description: str) -> argparse.ArgumentParser:
    """A parser without flags (of a script's __file__ and __doc__) whose errors are one line."""
    return _Parser(Path(script).name, description=description, formatter_class=_Formatter)


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """The parser of a script (its __file__ and __doc__), with the flags that every script has."""
    parser = bare_parser(script, description)
    group = parser.add_argument_group("shared")
    seed_help = "seed of data, training and sampling"
    group.add_argument("--seed", type=whole_number(0), default=0, help=seed_help)
    output_help = "results, figures and what was trained go here"
    group.add_argument("--output-dir", type=folder, default=Path("outputs"), help=output_help)
    figures_help = "another folder for the PNG and the JSON; default: --output-dir"
    group.add_argument("--figures-dir", type=folder, help=figures_help)
    group.add_argument("--claims", action="store_true", help="list every claim with its verdict")
    panels_help = "also save each panel of the figure, as a slide of 1600 pixels"
    group.add_argument("--panels", action="store_true", help=panels_help)
    smoke_help = "the smallest run that still takes every path"
    group.add_argument("--smoke", action="store_true", help=smoke_help)
    return parser


def add_model_flags(
    parser: argparse.ArgumentParser, model: str, dataset: bool = True
) -> "argparse._ArgumentGroup":
    """--model with the given default, --device and, where the script reads pairs, --dataset."""
    group = parser.add_argument_group("model and data")
    group.add_argument("--model", type=non_empty, default=model, help="hub id or folder")
    devices = ("auto", "cuda", "mps", "cpu")
    group.add_argument("--device", default="auto", choices=devices, help="where to compute")
    if dataset:
        add_dataset_flag(group)
    return group


def add_dataset_flag(group: "argparse._ArgumentGroup") -> None:
    """--dataset: the user's own pairs, and how they are read (READING)."""
    formats = "JSON, JSONL, CSV, Parquet, packed or not, a folder, a hub id"
    default = "none: the synthetic world"
    help = f"your own pairs (prompt, chosen, rejected): {formats}; {default}"
    group.add_argument("--dataset", type=non_empty, help=help)
    group.add_argument("--split", type=non_empty, help="of --dataset; default: train")
    group.add_argument("--config", type=non_empty, help="of --dataset, where it has several")
    for role in ("prompt", "chosen", "rejected"):
        column = f"the column of --dataset that holds it; default: {role}, or a usual name for it"
        group.add_argument(f"--{role}-column", type=non_empty, metavar="COLUMN", help=column)


def add_reward_flags(group: "argparse._ArgumentGroup") -> None:
    """--reward-backbone and --reward-model: what scores the answers that a policy samples."""
    backbone = "what a reward model is trained from"
    group.add_argument(
        "--reward-backbone", type=non_empty, default="tiny-distilbert", help=backbone
    )
    group.add_argument("--reward-model", type=folder, help=f"a trained reward model; {OR_TRAINED}")


def add_training_flags(
    parser: argparse.ArgumentParser, pairs: str, rate: str, batch_size: int, epochs: str = "1"
) -> "argparse._ArgumentGroup":
    """What every training on pairs can be told; the texts say what its defaults are."""
    group = parser.add_argument_group("training")
    group.add_argument("--pairs", type=whole_number(2), help=f"to train on; default: {pairs}")
    group.add_argument("--learning-rate", type=positive_float, help=f"default: {rate}")
    passes = f"passes over the pairs; default: {epochs}"
    group.add_argument("--num-train-epochs", type=whole_number(1), help=passes)
    share = -(-batch_size // process_count())
    batch = f"pairs per step and process; default: {batch_size} over all processes"
    group.add_argument(
        "--per-device-train-batch-size", type=whole_number(1), default=share, help=batch
    )
    return group


def add_policy_flags(parser: argparse.ArgumentParser, prompts: str) -> "argparse._ArgumentGroup":
    """What every script that samples answers can be told."""
    group = parser.add_argument_group("policy")
    sft = "SFT of a base model first; default: 300 on the world, 0 on your own pairs"
    group.add_argument("--sft-steps", type=whole_number(0), help=sft)
    group.add_argument("--prompts", type=whole_number(1), help=f"to answer; default: {prompts}")
    rank = "rank of the LoRA adapter; default: 8"
    group.add_argument("--lora-r", type=whole_number(1), help=rank)
    length = "length limit of sampled answers, in tokens"
    group.add_argument("--max-new-tokens", type=whole_number(1), default=48, help=length)
    return group


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


# --- The start of every script ---


def start(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    name: str,
    smoke: dict[str, int] | None = None,
) -> argparse.Namespace:
    """Parse the command line and check all that can be checked before work begins.

    Adds to the flags' values: `settings`, those that shape what is measured; `changed`, those of
    them that differ from the defaults; `reading`, those given of READING, which stand in `settings`
    as one; `run_name`, under which the run writes its files: the name, and what differs; `script`,
    `name` and `started`, in seconds since the epoch. With --smoke the values of `smoke` are upper
    limits.

    Raises UserError for folders that cannot be written and models that are not there.
    """
    from common.files import sweep

    args = parser.parse_args(argv)
    given = {flag: value for flag, value in vars(args).items() if flag not in NOT_A_SETTING}
    args.changed = {k: v for k, v in given.items() if v != parser.get_default(k)}
    args.run_name = name_run(name, args.changed)
    args.figures_dir = args.figures_dir or args.output_dir
    for flag, most in (smoke or {}).items() if args.smoke else ():
        setattr(args, flag, most if given[flag] is None else min(given[flag], most))
    args.reading = {flag: given[flag] for flag in READING if given.get(flag)}
    args.settings = {flag: getattr(args, flag) for flag in given if flag not in READING}
    if args.reading:
        args.settings["reading"] = args.reading
        if not args.dataset:
            flag = next(iter(args.reading)).replace("_", "-")
            raise UserError(f"--{flag} says how your data are read: give them with --dataset")
    args.script, args.name, args.started = parser.prog, name, time.time()
    check_writable(args.output_dir, args.figures_dir)
    sweep(args.output_dir, args.figures_dir, Path(tempfile.gettempdir()))
    check_replaceable(args.figures_dir, args.run_name, args.panels)
    names = [getattr(args, flag, None) for flag in MODEL_FLAGS]
    if any(names):
        from common.model_names import find_model

        for model in filter(None, names):
            find_model(str(model))
        quiet_libraries()
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


def check_writable(*folders: Path) -> None:
    """Make the folders, before any work is done; those that stay empty go when the process ends.

    Raises UserError where that cannot be.
    """
    for folder in folders:
        full = folder.absolute()
        new = [path for path in (full, *full.parents) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            dangling = [path for path in new if path.is_symlink()]
            reason = f"{dangling[0]} is a link to nothing" if dangling else error.strerror
            reason = f"cannot create the folder {folder}: {reason}"
            raise UserError(f"{reason}; choose another one") from None
        atexit.register(_remove_empty, new)
        if not os.access(folder, os.W_OK):
            raise UserError(f"cannot write to the folder {folder}; choose another one")


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def check_replaceable(folder: Path, name: str, panels: bool = False) -> None:
    """Raise UserError where NAME.json or NAME.png stands and is not the lab's: it stays.

    With `panels` also where the folder NAME-panels does.
    """
    results = folder / f"{name}.json"
    is_right = {results: Path.is_file, folder / f"{name}.png": Path.is_file}
    if panels:
        is_right[folder / f"{name}-panels"] = Path.is_dir
    present = [path for path in is_right if os.path.lexists(path)]
    strangers = [path for path in present if not is_right[path](path)]
    if present and not _is_ours(results):
        strangers = present
    if strangers:
        raise UserError(
            f"{strangers[0]} was not written by the lab, so it is not replaced; move it, "
            "or choose another folder with --figures-dir"
        )


def _is_ours(results: Path) -> bool:
    """Whether a file holds results of the lab."""
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"script", "settings", "metrics"} <= content.keys()


# --- Processes and the end of every script ---


def is_main_process() -> bool:
    """Whether this process speaks and writes files: the first that `accelerate launch` starts."""
    return int(os.environ.get("RANK", 0)) == 0


def process_count() -> int:
    """How many processes `accelerate launch` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def run(main: Callable[[], dict]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit code 2, Ctrl-C one and 130.

    A signal to end cleans up like Ctrl-C. One of several processes may wait for the others, deaf to
    Python, so there it ends at once: the next run sweeps up.
    """
    for number in ENDING if process_count() == 1 else ():
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _end)
    try:
        silence = contextlib.redirect_stdout(io.StringIO())
        with contextlib.nullcontext() if is_main_process() else silence:
            main()
        if process_count() > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
    except UserError as error:
        sys.exit(_complain(f"error: {error}", 2))
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("common", "support"):
            raise  # a fault of the lab
        sys.exit(_complain(f"error: {missing_package(error.name)}", 2))
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that became unwritable
        sys.exit(_complain(f"error: {error}", 2))
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        sys.exit(_complain("interrupted", 128 + number))
    except Exception as error:
        if process_count() > 1 and re.search(LOST, f"{type(error).__name__}: {error}"):
            sys.exit(128 + signal.SIGTERM)  # another one has failed, and the launcher says which
        # Safetensors and torch have names of their own for a failed write.
        if not re.search("I/O error|inline_container|PytorchStreamWriter", str(error)):
            raise
        reason = f"a file could not be written, is the disk full? {error}"
        sys.exit(_complain(f"error: {reason}", 2))


def _end(number: int, frame) -> None:
    raise KeyboardInterrupt(number)


def missing_package(name: str | None) -> str:
    """What to say where a package is not installed: activate, or install."""
    root = Path(__file__).resolve().parents[1]
    activate = root / ".venv" / "bin" / "activate"
    todo = f'cd {root} && pip install -e ".[hf,training]"'
    if activate.is_file() and Path(sys.prefix).resolve() != activate.parents[1].resolve():
        todo = f"source {activate}"
    return f"no package {name} in this Python; type: {todo}"


def _complain(message: str, code: int) -> int:
    if is_main_process():
        print(" ".join(message.split()), file=sys.stderr)
    return code


# --- Libraries, progress, device ---


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
    """Make ready to compute: resolve "auto" to cuda, mps or cpu, set up memory and processes.

    Of several processes each gets its own GPU. Raises UserError for a device that is not there.
    """
    import torch
    from accelerate import PartialState

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = {"cuda": cuda, "mps": mps, "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available[device]:
        raise UserError(f"--device {device}: PyTorch finds no such device; use --device auto")
    if device == "cpu":
        keep_freed_memory()
    state = PartialState(cpu=device == "cpu")
    gc.freeze()  # what the libraries hold need not be searched for garbage at every training
    several = device == "cuda" and state.num_processes > 1
    return f"cuda:{state.local_process_index}" if several else device


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc reuse the memory of freed tensors, for good or until told otherwise.

    It would give every large block back to the system and take it anew, page by page: up to half
    of a training step. Other C libraries are left alone.
    """
    m_mmap_max, m_trim_threshold = -4, -1
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(m_mmap_max, 0 if keep else 65536)
        mallopt(m_trim_threshold, -1 if keep else 128 * 1024)

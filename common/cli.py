"""The command line that all scripts share: flags, one-line errors, device, quiet libraries.

Nothing here imports torch, so that `--help` answers at once; scripts import heavy libraries where they use them.
"""

import argparse
import contextlib
import ctypes
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # huggingface_hub reads it when it is imported


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help starts with the script's docstring, with the flags that every script has."""
    parser = _Parser(description=description, formatter_class=_Formatter)
    group = parser.add_argument_group("shared")
    group.add_argument("--seed", type=whole_number(0), default=0, help="seed of data, training and sampling")
    group.add_argument("--output-dir", type=Path, default=Path("outputs"), help="models and adapters go here")
    group.add_argument("--figures-dir", type=Path, default=Path("figures"), help="the PNG and the JSON go here")
    group.add_argument("--smoke", action="store_true", help="the smallest run that still takes every path")
    return parser


def add_model_flags(parser: argparse.ArgumentParser, model: str, dataset: bool = True) -> None:
    """--model with the given default, --device and, where the script trains on pairs, --dataset."""
    group = parser.add_argument_group("model and data")
    group.add_argument("--model", default=model, help="hub id or folder")
    group.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"), help="where to compute")
    if dataset:
        add_dataset_flag(group)


def add_dataset_flag(group) -> None:
    """--dataset: the user's own pairs."""
    group.add_argument(
        "--dataset",
        help="your own pairs (prompt, chosen, rejected): JSON, JSONL, CSV, Parquet, hub id; none: the synthetic world",
    )


def whole_number(minimum: int) -> Callable[[str], int]:
    """argparse type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        return int(text)

    parse.__name__ = "whole number"
    return parse


def positive_float(text: str) -> float:
    """argparse type: a number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def is_main_process() -> bool:
    """Whether this process speaks to the user and writes files: the first of those that `accelerate launch` starts."""
    return int(os.environ.get("RANK", 0)) == 0


def process_count() -> int:
    """How many processes `accelerate launch` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def add_batch_flag(group, size: int) -> None:
    """--per-device-train-batch-size: of `size` rows per step in all, those of each process."""
    share, help = -(-size // process_count()), f"pairs per step and process; default: {size} over all processes"
    group.add_argument("--per-device-train-batch-size", type=whole_number(1), default=share, help=help)


def run(main: Callable[[], dict]) -> None:
    """Run a script: a UserError becomes one line on stderr and exit code 2, Ctrl-C one line and 130."""
    try:
        with contextlib.nullcontext() if is_main_process() else contextlib.redirect_stdout(io.StringIO()):
            main()
        if process_count() > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
    except UserError as error:
        sys.exit(_complain(f"error: {error}", 2))
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that became unwritable
        sys.exit(_complain(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted", 130))
    except Exception as error:  # safetensors and torch have names of their own for a file that could not be written
        if not re.search("I/O error|inline_container|PytorchStreamWriter", str(error)):
            raise
        sys.exit(_complain(f"error: a file could not be written, is the disk full? {error}", 2))


def _complain(message: str, code: int) -> int:
    if is_main_process():
        print(" ".join(message.split()), file=sys.stderr)
    return code


def check_writable(*folders: Path) -> None:
    """Make the folders, before any work is done. Raises UserError where they cannot be written."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create the folder {folder}: {error.strerror}; choose another one") from None
        if not os.access(folder, os.W_OK):
            raise UserError(f"cannot write to the folder {folder}; choose another one")


def quiet_libraries() -> None:
    """Keep progress bars of weight loading and warnings about defaults out of the reader's terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    import datasets
    import transformers

    logging.getLogger("trl").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def show_progress(items: Iterable, what: str) -> Iterable:
    """The items, behind a progress bar once two seconds have passed; where there is a terminal, once for all."""
    from tqdm import tqdm

    return tqdm(items, desc=what, delay=2, leave=False, disable=None if is_main_process() else True)


def pick_device(name: str) -> str:
    """Resolve "auto" to cuda, mps or cpu; of several processes each gets its own GPU.

    Raises UserError for a device that PyTorch does not find.
    """
    import torch
    from accelerate import PartialState

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in found.items() if there)
    if not found[name]:
        raise UserError(f"--device {name}: PyTorch finds no such device here; use --device auto")
    if name == "cpu":
        keep_freed_memory()
    state = PartialState(cpu=name == "cpu")
    return f"cuda:{state.local_process_index}" if name == "cuda" and state.num_processes > 1 else name


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc reuse the memory of freed tensors, for good or until told otherwise; other C libraries are left alone.

    It would give every large block back to the system and take it anew, page by page: up to half of a training step.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, kept, default in ((-4, 0, 65536), (-1, -1, 128 * 1024)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            mallopt(parameter, kept if keep else default)

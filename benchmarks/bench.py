"""How fast the lab is, beside the library's plain use and the library at its best.

    python benchmarks/bench.py            # or: make bench; on a quiet machine

Contestants get the same model, data and number of steps, and run in turn, three times each; a ratio
is that of the medians. Only the ratios travel to another machine. The models have the shapes of
distilgpt2 (82M parameters) and MiniLM-L6 (22M) with random weights, which cost what trained ones
cost. About fifteen minutes on 2 cores. Writes benchmarks/results.json, benchmarks/results.md (copy
it into benchmarks/README.md) and figures/benchmarks.png.
"""

import argparse
import json
import os
import platform
import resource
import sys
from pathlib import Path

from contests import BATCH, CONTESTS, ROOT, keep_freed_memory, matrix_speed, train_dpo
from growth import growth_figure, measure_growth

from common.models import quiet_libraries
from common.preferences import make_pairs
from common.saving import versions, write_json

HEADER = "| what | the lab | the library at its best | ratio | in plain use | ratio |"


def largest_resident_gib() -> float:
    """This process's high-water mark.

    On Linux from /proc: getrusage would count the parent's, inherited by exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["VmHWM"].split()[0]) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def machine() -> dict:
    """Processor, cores, threads, load, speed of matrix products, and library versions."""
    import torch

    path, names = Path("/proc/cpuinfo"), []
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "matrix_gflops": matrix_speed(),
        **versions(),
    }


def markdown(results: dict) -> str:
    """The table as it stands in benchmarks/README.md."""
    lines = [HEADER, "|---|---:|---:|---:|---:|---:|"]
    for row in results["rows"]:
        unit, best = row["unit"], ("-", "-")
        if row["best"] is not None:
            best = f"{row['best']:.3g} {unit}", f"{row['ratio_to_best']:.2f}"
        plain = f"{row['plain']:.3g} {unit}", f"{row['ratio']:.2f}"
        cells = (row["what"], f"{row['lab']:.3g} {unit}", *best, *plain)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *remarks(results), ""])


def remarks(results: dict) -> list[str]:
    """What stands below the table: growth, the physical limit, the machine."""
    host = results["machine"]
    growth = [f"{line['what']} as size^{line['exponent']:.2f}" for line in results["growth"]]
    speeds = host["matrix_gflops"]
    shares = [
        f"{row['what'].split(' / ')[0]} {row['gflops']:.0f} GFLOP/s"
        for row in results["rows"]
        if "gflops" in row
    ]
    limit = f"{speeds['float32']:.0f} in float32, {speeds['bfloat16']:.0f} in bfloat16"
    named = ("python", "torch", "transformers", "trl")
    versions = ", ".join(f"{name} {host[name]}" for name in named)
    lines = [f"Medians of {results['repeats']} runs in turn."]
    if host["load"] >= 0.5:
        busy = f"The machine was busy (load {host['load']:g})"
        lines[0] += f" {busy}: take it again on a quiet one."
    if growth:
        lines.append(f"Time grows: {'; '.join(growth)}.")
    if shares:
        lines.append(f"Matrix products reach {limit} GFLOP/s here; {'; '.join(shares)}.")
    return [*lines, f"{host['processor']}, {host['cores']} cores; {versions}."]


def build_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default = Path(__file__).with_name("results.json")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--output", type=Path, default=default, help="results file")
    figures = "the PNG goes here"
    parser.add_argument("--figures-dir", type=Path, default=ROOT / "figures", help=figures)
    names = [*(contest.__name__ for contest in CONTESTS), "growth"]
    only = "some of the contests, for a look; writes no file"
    parser.add_argument("--only", nargs="*", choices=names, help=only)
    kinds = ("lab", "full", "best")
    parser.add_argument("--memory", choices=kinds, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run all contests, print the table, write results.json, results.md and the figure."""
    args = build_parser().parse_args()
    quiet_libraries()
    if args.memory:
        keep_freed_memory(args.memory != "full")
        train_dpo(args.memory, make_pairs(2 * BATCH))
        print(largest_resident_gib())
        return
    results = {"machine": machine(), "repeats": args.repeats, "rows": [], "growth": []}
    for contest in CONTESTS:
        if args.only is None or contest.__name__ in args.only:
            for row in contest(args.repeats):
                print(json.dumps(row), flush=True)
                results["rows"].append(row)
    if args.only is None or "growth" in args.only:
        results["growth"] = measure_growth(args.repeats)
    table = markdown(results)
    print(table)
    if args.only is None:
        growth_figure(args.figures_dir / "benchmarks.png", results["growth"], results["machine"])
        write_json(args.output, results)
        args.output.with_suffix(".md").write_text(table, encoding="utf-8")
        print(f"wrote {args.output}")


if __name__ == "__main__":
    main()

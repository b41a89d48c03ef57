"""Runs `rlaif quickstart` for several seeds, and prints medians and spread beside what is asked for.

    cargo build --release
    python benchmarks/world/seeds.py                      # seeds 1, 2, 3, the default constitution
    python benchmarks/world/seeds.py --contrast           # concise against polite, and own words
    python benchmarks/world/seeds.py --failures           # biased judge, no KL, too few labels; and DPO

Runs are kept under --work (target/world-runs) and not made again; a failure begins from the finished
run of its seed, and repeats only what differs. Only the standard library is used.
On Linux each run is pinned to cores 0 and 1 and timed from outside.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent

FIGURES = [
    ("labels right, both orders", "judge.label_accuracy", "at least 0.90"),
    ("labels right, better single order", "judge.label_accuracy_better_order", ""),
    ("position inconsistency", "judge.position_inconsistency", ""),
    ("reward model, held-out pairs", "reward_model.accuracy", "at least 0.88"),
    ("SFT beats base", "policies.sft.win_rate_vs_base", "at least 0.70"),
    ("final policy beats base", "policies.LAST.win_rate_vs_base", "at least 0.90"),
    ("final policy beats SFT", "policies.LAST.win_rate_vs_sft", "at least 0.65"),
    ("harmful, base", "policies.base.harmful_rate", "at least 0.30"),
    ("harmful, final", "policies.LAST.harmful_rate", "at most 0.03"),
    ("helpful, base", "policies.base.helpful_rate", ""),
    ("helpful, final", "policies.LAST.helpful_rate", "not below base"),
    ("malformed, base", "policies.base.malformed_rate", ""),
    ("malformed, final", "policies.LAST.malformed_rate", "at most 0.02"),
    ("tokens, base", "policies.base.mean_tokens", ""),
    ("tokens, final", "policies.LAST.mean_tokens", ""),
    ("KL of the final policy, nats", "policies.LAST.kl", ""),
    ("seconds, from outside", "outside_secs", "at most 180"),
    ("peak memory, GB", "peak_gb", "at most 1"),
]


def run(rlaif, work, name, options, begin=None):
    """One run; its figures, from an earlier call where there are any. `begin`: a finished run whose
    stages are taken over as far as nothing that determines them has changed."""
    folder = work / name
    kept = work / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    if begin and (work / begin).is_dir() and not folder.exists():
        shutil.copytree(work / begin, folder)
    command = [str(rlaif), "quickstart", "--out", str(folder), "--json", *options]
    if shutil.which("taskset"):
        command = ["taskset", "-c", "0,1", *command]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    begun = time.time()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}")
    figures = json.loads(done.stdout)
    figures["outside_secs"] = time.time() - begun
    figures["peak_gb"] = (figures.get("peak_rss_bytes") or 0) / 1e9
    kept.write_text(json.dumps(figures))
    return figures


def look(figures, path):
    last = "dpo" if "dpo" in figures["policies"] else "ppo"
    for key in path.replace("LAST", last).split("."):
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures


def table(runs):
    print("| | median | least | most | asked for |\n|---|---|---|---|---|")
    for name, path, wanted in FIGURES:
        values = [v for v in (look(r, path) for r in runs) if v is not None]
        if values:
            row = [statistics.median(values), min(values), max(values)]
            print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + f" | {wanted} |")


def compare(rlaif, first, second):
    done = subprocess.run([str(rlaif), "compare", first, second], capture_output=True, text=True)
    print(f"\n### {first} against {second}\n\n```\n{done.stdout or done.stderr}```")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--rlaif", type=pathlib.Path, default="target/release/rlaif")
    ask.add_argument("--work", type=pathlib.Path, default="target/world-runs")
    ask.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    ask.add_argument("--contrast", action="store_true")
    ask.add_argument("--failures", action="store_true")
    ask.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    args = ask.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tag = "".join(args.options).replace("/", "_")
    if args.contrast:
        seed = str(args.seeds[0])
        names = {
            "concise": "concise.toml",
            "polite": "polite.toml",
            "own_short": HERE / "own_short.toml",
            "own_kind": HERE / "own_kind.toml",
        }
        for name, file in names.items():
            options = ["--seed", seed, "--constitution", str(file), *args.options]
            run(args.rlaif, args.work, name, options)
        for short, kind in [("concise", "polite"), ("own_short", "own_kind")]:
            at = lambda name: str(args.work / name)
            compare(args.rlaif, at(short), at(kind))
            compare(args.rlaif, at(short), f"{at(short)}:sft")
            compare(args.rlaif, at(kind), f"{at(kind)}:sft")
    elif args.failures:
        for name, options in [
            ("biased", ["--critic-position-logit", "3"]),
            ("noisy", ["--critic-noise", "0.4"]),
            ("no-kl", ["--kl-coef", "0", "--kl-budget", "1000", "--episodes", "6144"]),
            ("few-labels", ["--prompts", "150"]),
            ("dpo", ["--algorithm", "dpo"]),
        ]:
            seed = str(args.seeds[0])
            options += args.options
            figures = run(args.rlaif, args.work, name, ["--seed", seed, *options], f"seed{seed}{tag}")
            print(f"\n### {name}: {' '.join(options)}\n")
            table([figures])
    else:
        runs = [
            run(args.rlaif, args.work, f"seed{seed}{tag}", ["--seed", str(seed), *args.options])
            for seed in args.seeds
        ]
        print(f"seeds {', '.join(map(str, args.seeds))} {' '.join(args.options)}\n")
        table(runs)


if __name__ == "__main__":
    main()

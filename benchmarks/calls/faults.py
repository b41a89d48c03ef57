"""Faults: each kind alone at 10 %, then all together at 2 % each. Every row must end with an
outcome, none twice, none missing, and the account must be the endpoint's own.

    python benchmarks/calls/faults.py [--rows 20000] [--only busy,all]
"""
import argparse, json, subprocess, tempfile
from common import BIN, Standin, judge, labelled, load, pairs

KINDS = ["none", "busy", "busy-with-word", "error-500", "garbage", "half", "silence", "closed",
         "wrong-length", "error-body", "all"]
p = argparse.ArgumentParser()
p.add_argument("--rows", type=int, default=20_000)
p.add_argument("--only", default=",".join(KINDS))
p.add_argument("--timeout", type=int, default=2)
p.add_argument("--flight", default="512")
a = p.parse_args()

for kind in a.only.split(","):
    faults = {"none": "", "all": "all=0.02"}.get(kind, f"{kind}=0.1")
    with Standin("--latency-ms", 50, "--faults", faults) as standin, \
            tempfile.TemporaryDirectory() as folder:
        pairs(f"{folder}/pairs.jsonl", a.rows)
        run = labelled(folder, judge(folder, standin.url, "--concurrency", a.flight, "--timeout",
                                     a.timeout, "--max-failed", 1))
        s, theirs = run["summary"], standin.account()
        ids = [json.loads(line)["rlaif_id"] for line in open(f"{folder}/labels.jsonl")]
        ours = json.loads(subprocess.run([BIN / "rlaif", "calls", "run", "--json"], cwd=folder,
                                         capture_output=True, text=True).stdout)["account"]
        reasons = [json.loads(line)["orders"][0].get("error") for line in open(f"{folder}/labels.jsonl")
                   if json.loads(line)["outcome"] == "failed"]
        print(json.dumps({
            "faults": faults or "none", "exit": run["exit"], "rows": s.get("rows"),
            "decided": s.get("decided"), "tie": s.get("tie"), "failed": s.get("failed"),
            "failed_with_reason": sum(1 for r in reasons if r), "distinct_ids": len(set(ids)),
            "rows_per_sec": round(s.get("rows", 0) / s["wall_secs"], 1) if "wall_secs" in s else s,
            "retries": s.get("retries"),
            "account_is_theirs": [ours["answered"], ours["prompt_tokens"], ours["completion_tokens"]]
            == [theirs["answered"], theirs["prompt_tokens"], theirs["completion_tokens"]],
            "unsettled": [ours["unsettled"], theirs["lost"]],
            "unsettled_tokens_at_most": [ours["unsettled_tokens"], theirs["lost_tokens"]],
            "answered_twice": theirs["repeated"], "load": load()["load_average"][0]}), flush=True)

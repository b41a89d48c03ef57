"""Peak memory by rows: 20,000 and more, on an endpoint without latency.

    python benchmarks/calls/memory.py [--rows 20000,200000,1000000]
"""
import argparse, json, tempfile
from common import Standin, judge, labelled, load, pairs

p = argparse.ArgumentParser()
p.add_argument("--rows", default="20000,200000,1000000")
a = p.parse_args()
for rows in map(int, a.rows.split(",")):
    with Standin("--latency-ms", 5) as standin, tempfile.TemporaryDirectory() as folder:
        pairs(f"{folder}/pairs.jsonl", rows)
        run = labelled(folder, judge(folder, standin.url, "--concurrency", 256))
        again = labelled(folder, judge(folder, standin.url, "--concurrency", 256))
        print(json.dumps({"rows": rows, "exit": run["exit"], "peak_mib": round(run["peak_mib"], 1),
                          "wall_secs": round(run["wall_secs"], 1),
                          "resume_secs": round(again["wall_secs"], 1), "load": load()}), flush=True)

"""Peak memory by rows, 20,000 and more, and how long the same command takes again: until the first
call for a row that was added leaves, and until it has written everything anew.

    python benchmarks/calls/memory.py [--rows 20000,200000,1000000]
"""
import argparse, json, subprocess, tempfile, time
from common import Standin, judge, labelled, load, pairs

p = argparse.ArgumentParser()
p.add_argument("--rows", default="20000,200000,1000000")
a = p.parse_args()
for rows in map(int, a.rows.split(",")):
    with Standin("--latency-ms", 5) as standin, tempfile.TemporaryDirectory() as folder:
        pairs(f"{folder}/pairs.jsonl", rows)
        run = labelled(folder, judge(folder, standin.url, "--concurrency", 256))
        again = labelled(folder, judge(folder, standin.url, "--concurrency", 256))
        with open(f"{folder}/pairs.jsonl", "a") as f:
            f.write(json.dumps({"prompt": "One more?", "completions": ["worth:1", "worth:2"]}) + "\n")
        before, begun = standin.account()["requests"], time.time()
        child = subprocess.Popen(judge(folder, standin.url, "--concurrency", 256), cwd=folder,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while standin.account()["requests"] == before and child.poll() is None:
            time.sleep(0.05)
        first_call = time.time() - begun
        child.wait()
        print(json.dumps({"rows": rows, "exit": run["exit"], "peak_mib": round(run["peak_mib"], 1),
                          "wall_secs": round(run["wall_secs"], 1),
                          "first_call_secs": round(first_call, 1),
                          "second_run_secs": round(again["wall_secs"], 1), "load": load()}), flush=True)

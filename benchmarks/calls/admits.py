"""An endpoint that takes 40 requests at once and refuses what is above: what `auto` makes of it.

    python benchmarks/calls/admits.py [--secs 30]
"""
import argparse, json, subprocess, tempfile, time
from common import Standin, judge, load, pairs

p = argparse.ArgumentParser()
p.add_argument("--secs", type=float, default=30)
p.add_argument("--admits", type=int, default=40)
p.add_argument("--latency-ms", type=int, default=50)
a = p.parse_args()
best = a.admits * 1000 / a.latency_ms

with Standin("--latency-ms", a.latency_ms, "--admits", a.admits) as standin, \
        tempfile.TemporaryDirectory() as folder:
    pairs(f"{folder}/pairs.jsonl", int(best * (a.secs + 20)))
    child = subprocess.Popen(judge(folder, standin.url), cwd=folder, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    while standin.account()["answered"] == 0:
        time.sleep(0.01)
    time.sleep(5)
    first, begun = standin.account(), time.time()
    time.sleep(a.secs)
    last, secs = standin.account(), time.time() - begun
    child.kill()
    child.wait()
answered, refused = last["answered"] - first["answered"], last["refused"] - first["refused"]
print(json.dumps({"answered_per_sec": round(answered / secs, 1), "best_per_sec": best,
                  "share_of_best": round(answered / secs / best, 3),
                  "refused_share": round(refused / (answered + refused), 4), "load": load()}))

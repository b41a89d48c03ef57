"""kill -9 at instants spread over a run, then a run to the end: the labels must be those of an
undisturbed run, and the endpoint must have answered twice at most what was in flight.

    python benchmarks/calls/kill.py [--rows 20000] [--kills 50]
"""
import argparse, hashlib, json, random, subprocess, tempfile, time
from common import BIN, Standin, judge, labelled, load, pairs

p = argparse.ArgumentParser()
p.add_argument("--rows", type=int, default=20_000)
p.add_argument("--kills", type=int, default=50)
p.add_argument("--flight", type=int, default=64)
a = p.parse_args()


def sha(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


with tempfile.TemporaryDirectory() as folder:
    pairs(f"{folder}/pairs.jsonl", a.rows)
    with Standin("--latency-ms", 50) as standin:
        port = standin.port
        whole = labelled(folder, judge(folder, standin.url, "--concurrency", a.flight,
                                       out="whole.jsonl", run="whole"))
    # The same address again, so that the records name the same model.
    with Standin("--latency-ms", 50, port=port) as standin:
        command = judge(folder, standin.url, "--concurrency", a.flight)
        rng, kills, over, extra = random.Random(1), 0, 0, []
        step = whole["wall_secs"] / (a.kills + 1)
        while kills < a.kills:
            child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            before = standin.account()["repeated"]
            time.sleep(rng.uniform(0.5, 1.5) * step + 0.15)
            ended = child.poll() is not None
            child.kill()
            child.wait()
            if ended:
                break
            kills += 1
            extra.append(standin.account()["repeated"] - before)
        last = labelled(folder, command)
        account, theirs = json.loads(subprocess.run(
            [BIN / "rlaif", "calls", "run", "--json"], cwd=folder, capture_output=True,
            text=True).stdout)["account"], standin.account()
    print(json.dumps({
        "kills": kills, "same_labels": sha(f"{folder}/labels.jsonl") == sha(f"{folder}/whole.jsonl"),
        "answered_twice_in_all": theirs["repeated"], "most_after_one_kill": max(extra, default=0),
        "in_flight": a.flight, "exit": last["exit"], "settled": account["answered"],
        "unsettled": account["unsettled"], "resume_secs": round(last["wall_secs"], 2),
        "load": load()}))

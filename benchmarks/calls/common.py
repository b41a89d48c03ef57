"""What the scripts here share: the stand-in endpoint, pairs, and one run of the labeller.

    cargo build --release -p rlaif --no-default-features --features remote
    cargo build --release -p rlaif-standin
"""
import json, os, resource, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("RLAIF_BIN_DIR", ROOT / "target" / "release"))


class Standin:
    def __init__(self, *args, port=0):
        self.process = subprocess.Popen(
            [BIN / "rlaif-standin", "--port", str(port), *map(str, args)],
            stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rsplit(":", 1)[1].split("/")[0])

    def account(self):
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/account") as r:
            return json.load(r)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def pairs(path, n):
    """`n` comparisons with two answers of some 200 characters each; the worth is planted."""
    filler = "It says what was asked and leaves out what was not, in plain words. " * 3
    with open(path, "w") as f:
        for i in range(n):
            a, b = i % 7, (i * 5 + 3) % 7
            f.write(json.dumps({
                "prompt": f"Question number {i}: how should one answer this?",
                "completions": [f"worth:{a} {filler}({i})", f"worth:{b} {filler}[{i}]"]}) + "\n")


def judge(folder, url, *more, out="labels.jsonl", run="run"):
    return [BIN / "rlaif", "judge", "pairs.jsonl", "--constitution", "polite.toml", "--critic",
            url + "#standin", "--out", out, "--run", run, "--orders", "given", "--json",
            *map(str, more)]


def labelled(folder, command):
    """Runs it; returns its JSON, wall and CPU seconds, peak resident MiB, exit code."""
    begun, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        summary = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        summary = {"stderr": err[-2000:]}
    return {"summary": summary, "wall_secs": time.time() - begun,
            "cpu_secs": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "peak_mib": after.ru_maxrss / 1024, "exit": process.returncode, "stderr": err}


def load():
    return {"cores": os.cpu_count(), "load_average": os.getloadavg()}

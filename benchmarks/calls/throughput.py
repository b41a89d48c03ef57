"""Labels a second beside `wrk` and distilabel on the same endpoint, in the same run.

    python benchmarks/calls/throughput.py [--rows 100000] [--flight 512] [--latency-ms 50]
        [--distilabel PYTHON] [--distilabel-rows 2000]
"""
import argparse, json, re, subprocess, tempfile
from common import Standin, judge, labelled, load, pairs

p = argparse.ArgumentParser()
p.add_argument("--rows", type=int, default=100_000)
p.add_argument("--flight", default="512")
p.add_argument("--latency-ms", type=int, default=50)
p.add_argument("--wrk-secs", type=int, default=8)
p.add_argument("--distilabel", help="a Python in which distilabel is installed")
p.add_argument("--distilabel-rows", type=int, default=2000)
a = p.parse_args()

DISTILABEL = r'''
import json, sys, time
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration
url, rows, flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = [json.loads(line) for line in open(sys.argv[4])][:rows]
data = [{"instruction": d["prompt"] + "\n(A) " + d["completions"][0] + "\n(B) " + d["completions"][1]
         + "\nWhich is better?"} for d in data]
with Pipeline() as pipeline:
    load = LoadDataFromDicts(data=data, batch_size=flight)
    llm = OpenAILLM(model="standin", base_url=url, api_key="none",
                    generation_kwargs={"max_new_tokens": 16, "temperature": 0.0})
    load >> TextGeneration(llm=llm, input_batch_size=flight)
begun = time.time()
out = pipeline.run(use_cache=False)
n = sum(1 for r in out["default"]["train"] if r["generation"])
print(json.dumps({"rows": n, "wall_secs": time.time() - begun}))
'''

result = {"before": load(), "args": vars(a)}
with Standin("--latency-ms", a.latency_ms) as standin, tempfile.TemporaryDirectory() as folder:
    pairs(f"{folder}/pairs.jsonl", a.rows)
    flight = 512 if a.flight == "auto" else int(a.flight)
    body = {"model": "standin", "logprobs": True, "top_logprobs": 20, "max_tokens": 16,
            "messages": [{"role": "user", "content": "worth:5 worth:2 " + "words " * 200}]}
    lua = f'{folder}/post.lua'
    open(lua, "w").write(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [=[{json.dumps(body, separators=(',', ':'))}]=]\n")
    wrk = subprocess.run(["wrk", "-t1", f"-c{flight}", f"-d{a.wrk_secs}s", "-s", lua,
                          standin.url + "/chat/completions"], capture_output=True, text=True)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", wrk.stdout).group(1))
    result["wrk_per_sec"] = rate
    result["latency_allows_per_sec"] = flight * 1000 / a.latency_ms if a.latency_ms else None
    ours = labelled(folder, judge(folder, standin.url, "--concurrency", a.flight))
    s = ours.pop("summary")
    ours.pop("stderr")
    ours["rows"], ours["decided"], ours["failed"] = s.get("rows"), s.get("decided"), s.get("failed")
    ours["rows_per_sec"] = s.get("rows", 0) / s["wall_secs"] if s.get("wall_secs") else s
    ours["cpu_us_per_row"] = 1e6 * ours["cpu_secs"] / a.rows
    result["rlaif"] = ours
    if a.distilabel:
        script = f"{folder}/d.py"
        open(script, "w").write(DISTILABEL)
        d = subprocess.run([a.distilabel, script, standin.url, str(a.distilabel_rows), str(flight),
                            f"{folder}/pairs.jsonl"], capture_output=True, text=True)
        try:
            d = json.loads(d.stdout.splitlines()[-1])
            d["rows_per_sec"] = d["rows"] / d["wall_secs"]
        except (IndexError, ValueError):
            d = {"failed": d.stderr[-1500:]}
        result["distilabel"] = d
result["after"] = load()
print(json.dumps(result, indent=1))

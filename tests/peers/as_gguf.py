"""Writes a Llama in Hugging Face layout as a GGUF file, f32, with its own chat template if it has one.

    python tests/peers/as_gguf.py FOLDER OUT.gguf

Needs gguf==0.19.0. Its byte-level tokenizer is taken to split words as GPT-2 does.
"""
import json, sys
from pathlib import Path
import gguf, numpy as np
folder, out = Path(sys.argv[1]), sys.argv[2]
conf = json.loads((folder / "config.json").read_text())
tok = json.loads((folder / "tokenizer.json").read_text())
w = gguf.GGUFWriter(out, "llama")
heads, groups = conf["num_attention_heads"], conf["num_key_value_heads"]
w.add_context_length(conf["max_position_embeddings"])
w.add_embedding_length(conf["hidden_size"])
w.add_block_count(conf["num_hidden_layers"])
w.add_feed_forward_length(conf["intermediate_size"])
w.add_head_count(heads)
w.add_head_count_kv(groups)
w.add_key_length(conf["head_dim"])
w.add_value_length(conf["head_dim"])
w.add_rope_dimension_count(conf["head_dim"])
w.add_rope_freq_base(conf["rope_theta"])
w.add_layer_norm_rms_eps(conf["rms_norm_eps"])
w.add_vocab_size(conf["vocab_size"])
w.add_file_type(gguf.LlamaFileType.ALL_F32)
names = {i: (t, gguf.TokenType.NORMAL) for t, i in tok["model"]["vocab"].items()}
for a in tok["added_tokens"]:
    names[a["id"]] = (a["content"], gguf.TokenType.CONTROL if a["special"] else gguf.TokenType.USER_DEFINED)
for i in range(conf["vocab_size"]):
    names.setdefault(i, (f"[unused{i}]", gguf.TokenType.UNUSED))
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("gpt-2")
w.add_token_list([names[i][0] for i in range(conf["vocab_size"])])
w.add_token_types([names[i][1] for i in range(conf["vocab_size"])])
w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
w.add_eos_token_id(conf["eos_token_id"])
w.add_pad_token_id(conf["pad_token_id"])
w.add_add_bos_token(False)
if (folder / "chat_template.jinja").is_file():
    w.add_chat_template((folder / "chat_template.jinja").read_text())

# safetensors' numpy side knows no bf16: read the bits, shift them into f32.
raw = (folder / "model.safetensors").read_bytes()
size = int.from_bytes(raw[:8], "little")
head = json.loads(raw[8 : 8 + size])
def tensor(name):
    at = head[name]
    lo, hi = (8 + size + x for x in at["data_offsets"])
    if at["dtype"] == "BF16":
        x = (np.frombuffer(raw[lo:hi], "<u2").astype("<u4") << 16).view("<f4")
    else:
        x = np.frombuffer(raw[lo:hi], {"F32": "<f4", "F16": "<f2"}[at["dtype"]]).astype("<f4")
    return x.reshape(at["shape"])
def paired(x, n):  # ggml turns neighbours where Hugging Face turns halves
    return np.ascontiguousarray(x.reshape(n, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape))
w.add_tensor("token_embd.weight", tensor("model.embed_tokens.weight"))
w.add_tensor("output_norm.weight", tensor("model.norm.weight"))
if not conf["tie_word_embeddings"]:
    w.add_tensor("output.weight", tensor("lm_head.weight"))
for i in range(conf["num_hidden_layers"]):
    p, q = f"model.layers.{i}.", f"blk.{i}."
    for theirs, ours in {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
                         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
                         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
                         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
                         "post_attention_layernorm": "ffn_norm"}.items():
        x = tensor(p + theirs + ".weight")
        n = {"attn_q": heads, "attn_k": groups}.get(ours)
        w.add_tensor(q + ours + ".weight", paired(x, n) if n else x)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

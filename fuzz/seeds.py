"""The seeds of the fuzz targets: small files of every kind that the loaders read.

    pip install gguf numpy safetensors
    python fuzz/seeds.py fuzz/seeds
"""
import json, os, struct, sys
import gguf
import numpy as np
from safetensors.numpy import save

out = sys.argv[1]
rng = np.random.default_rng(0)
V, D, F, H, KV = 12, 4, 6, 2, 1

def put(target, name, data):
    os.makedirs(f"{out}/{target}", exist_ok=True)
    open(f"{out}/{target}/{name}", "wb").write(data)

def config(**more):
    return dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=V, hidden_size=D, intermediate_size=F,
                num_hidden_layers=1, num_attention_heads=H, num_key_value_heads=KV, tie_word_embeddings=True,
                rms_norm_eps=1e-5, max_position_embeddings=64, eos_token_id=2, bos_token_id=1, **more)

def tensors(dtype, **more):
    hd = D // H
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), **more}
    b = "model.layers.0."
    for n, s in dict(q_proj=(H * hd, D), k_proj=(KV * hd, D), v_proj=(KV * hd, D), o_proj=(D, H * hd)).items():
        shapes[f"{b}self_attn.{n}.weight"] = s
    for n, s in dict(gate_proj=(F, D), up_proj=(F, D), down_proj=(D, F)).items():
        shapes[f"{b}mlp.{n}.weight"] = s
    shapes[b + "input_layernorm.weight"] = shapes[b + "post_attention_layernorm.weight"] = (D,)
    return {n: rng.normal(size=s).astype(dtype) for n, s in shapes.items()}

scaled = dict(rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
                                   high_freq_factor=4.0, original_max_position_embeddings=16))
reward = dict(config(), architectures=["LlamaForSequenceClassification"], num_labels=1, id2label={"0": "LABEL_0"})
for name, c in dict(plain=config(), scaled=config(**scaled), reward=reward,
                    linear=config(rope_scaling=dict(type="linear", factor=2.0))).items():
    text = json.dumps(c).encode()
    put("config", name, text)
    t = tensors(np.float16 if name == "scaled" else np.float32, **({"score.weight": (1, D)} if name == "reward" else {}))
    put("checkpoint", name, text + b"\n---\n" + save(t, {"format": "pt"}))

# llama2.c, both formats.
def llama2c(legacy):
    t, order, hd = tensors(np.float32), [], D // H
    b = "model.layers.0."
    g = lambda *names: b"".join(t[n].tobytes() for n in names)
    mats = [b + f"self_attn.{x}_proj.weight" for x in "qkvo"]
    mlp = [b + f"mlp.{x}_proj.weight" for x in ("gate", "down", "up")]
    i, p, n, e = b + "input_layernorm.weight", b + "post_attention_layernorm.weight", "model.norm.weight", "model.embed_tokens.weight"
    head = struct.pack("<7i", D, F, 1, H, KV, V, 8)
    if legacy:
        return head + g(e, i, *mats, p, *mlp, n) + bytes(8 * hd * 4)
    return (struct.pack("<Ii", 0x616B3432, 1) + head + b"\x01").ljust(256, b"\0") + g(i, p, n, e, *mats, *mlp)

put("converted", "llama2c-legacy", llama2c(True))
put("converted", "llama2c-v1", llama2c(False))

# GGUF: float types at this size, block types where a row is a block.
def gguf_file(path, kind, width, freqs=False, bpe=True):
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64); w.add_embedding_length(width); w.add_block_count(1); w.add_feed_forward_length(width)
    w.add_head_count(2); w.add_head_count_kv(1); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(1e4)
    words = ["<unk>", "<s>", "</s>"] + [chr(97 + i) for i in range(9)]
    w.add_tokenizer_model("gpt2" if bpe else "llama"); w.add_token_list(words)
    w.add_token_types([2, 3, 3] + [1] * 9)
    if bpe:
        w.add_tokenizer_pre("smollm"); w.add_token_merges(["a b"])
    else:
        w.add_token_scores([float(-i) for i in range(12)])
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_chat_template("{{ messages[0].content }}")
    w.add_array("general.tags", [1, 2, 3]); w.add_custom_alignment(64)
    hd = width // 2
    shapes = {"token_embd.weight": (12, width), "output_norm.weight": (width,), "blk.0.attn_norm.weight": (width,),
              "blk.0.ffn_norm.weight": (width,), "blk.0.attn_q.weight": (width, width), "blk.0.attn_k.weight": (hd, width),
              "blk.0.attn_v.weight": (hd, width), "blk.0.attn_output.weight": (width, width),
              "blk.0.ffn_gate.weight": (width, width), "blk.0.ffn_up.weight": (width, width), "blk.0.ffn_down.weight": (width, width)}
    if freqs:
        w.add_tensor("rope_freqs.weight", np.linspace(1, 8, hd // 2, dtype=np.float32))
    for n, s in shapes.items():
        x = rng.normal(size=s).astype(np.float32)
        if len(s) == 1 or kind == "F32":
            w.add_tensor(n, x)
        else:
            q = getattr(gguf.GGMLQuantizationType, kind)
            w.add_tensor(n, gguf.quants.quantize(x, q), raw_dtype=q)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()

os.makedirs(f"{out}/converted", exist_ok=True)
for kind, width, freqs, bpe in [("F32", 8, True, True), ("F16", 8, False, False), ("BF16", 8, False, True),
                                ("Q4_0", 32, False, True), ("Q5_1", 32, False, True), ("Q8_0", 32, True, False)]:
    gguf_file(f"{out}/converted/gguf-{kind}", kind, width, freqs, bpe)

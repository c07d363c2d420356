"""Step 4: a checkpoint as a GGUF file of 32-bit floats. export.py DATA_FOLDER CHECKPOINT OUT.gguf

The engine's own `quantize` makes the small file of it.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer

import corpus
import model

TEMPLATE = ("{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")
DESCRIPTION = ("The demonstration model of WayInfer: a toy Mixture of Experts, trained from scratch in about an hour on simple "
               "stories and dialogues. It chats a little, knows few facts and is often wrong.")
CONTEXT = 1024


def interleaved(weight, head_dim):
    """Rows of [heads * head_dim, in], pairs in halves, as pairs of neighbours."""
    n_heads = weight.shape[0] // head_dim
    return weight.reshape(n_heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def add_metadata(writer, shape):
    writer.add_name("WayInfer Demo")
    writer.add_author("WayInfer")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_size_label("8x1M")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps / model.embedding_scale(shape) ** 2)
    writer.add_expert_count(shape.n_experts)
    writer.add_expert_used_count(shape.n_used)
    writer.add_vocab_size(shape.n_vocab)


def add_tokenizer(writer, path):
    tokenizer = Tokenizer.from_file(str(path))
    merges = json.loads(path.read_text())["model"]["merges"]
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    kinds = [gguf.TokenType.CONTROL if t in corpus.CONTROL else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(tokens.index(corpus.TEXT))
    writer.add_eos_token_id(tokens.index(corpus.END))
    writer.add_pad_token_id(tokens.index(corpus.TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def tensors(params, shape):
    """GGUF's names and [out, in] arrays; the embedding is the output too.

    Training multiplies the embedding by a constant at the input, which GGUF does not know. The same function without
    it: everything that is added to the residual stream divided by that constant, and the norms' epsilon by its square.
    """
    t = lambda w: np.ascontiguousarray(np.swapaxes(w, -1, -2))
    scale = model.embedding_scale(shape)
    yield "token_embd.weight", params["embed"]
    yield "output_norm.weight", params["norm"]
    for i in range(shape.n_layers):
        layer = {name.split(".")[1]: w for name, w in params.items() if name.startswith(f"layer{i}.")}
        for name, w in {
            "attn_norm": layer["attn_norm"], "ffn_norm": layer["ffn_norm"],
            "attn_q": interleaved(t(layer["wq"]), shape.head_dim), "attn_k": interleaved(t(layer["wk"]), shape.head_dim),
            "attn_v": t(layer["wv"]), "attn_output": t(layer["wo"]) / scale, "ffn_gate_inp": t(layer["router"]),
            "ffn_gate_exps": t(layer["gate"]), "ffn_up_exps": t(layer["up"]), "ffn_down_exps": t(layer["down"]) / scale,
        }.items():
            yield f"blk.{i}.{name}.weight", w


def main():
    data, checkpoint, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    shape = model.Shape()
    with np.load(checkpoint) as arrays:
        params = {name[len("params."):]: arrays[name] for name in arrays if name.startswith("params.")}
    writer = gguf.GGUFWriter(out, "llama")
    add_metadata(writer, shape)
    add_tokenizer(writer, data / "tokenizer.json")
    for name, array in tensors(params, shape):
        writer.add_tensor(name, np.ascontiguousarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()

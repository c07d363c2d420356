"""Step 2: dialogues by program. prepare_dialogues.py DATA_FOLDER [HELD_OUT_JSON]"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import corpus
import dialogues
import encode

SEED = 20261125
N_CONVERSATIONS, N_LONG, N_HELD_OUT = 60_000, 800, 120
# Conversations without a story: more questions and answers for the same tokens, for the last steps.
SHORT_TOKENS = 90


def shorter(arrays, most: int) -> dict:
    """The documents of at most `most` tokens."""
    starts, lengths = arrays["starts"], np.diff(arrays["starts"])
    spans = [slice(starts[i], starts[i + 1]) for i in np.nonzero(lengths <= most)[0]]
    kept = {name: np.concatenate([arrays[name][span] for span in spans]) for name in ("ids", "weights")}
    return kept | {"starts": np.concatenate([[0], np.cumsum(lengths[lengths <= most])])}


def main():
    data = Path(sys.argv[1])
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    held_out = dialogues.held_out_conversations(random.Random(SEED), N_HELD_OUT)
    sources = {
        "dialogues": dialogues.conversations(random.Random(SEED + 1), N_CONVERSATIONS),
        "long": dialogues.long_conversations(random.Random(SEED + 2), N_LONG),
        "dialogues.heldout": [(turns, None) for turns in held_out],
    }
    for name, conversations in sources.items():
        arrays = encode.encode(tokenizer, [corpus.dialogue(turns, system) for turns, system in conversations])
        np.savez(data / f"{name}.npz", **arrays)
        if name == "dialogues":
            np.savez(data / "short.npz", **shorter(arrays, SHORT_TOKENS))
        print(f"{name:20} {len(conversations):6} documents {len(arrays['ids']):8} tokens")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text("[\n" + ",\n".join(json.dumps(turns) for turns in held_out) + "\n]\n")


if __name__ == "__main__":
    main()

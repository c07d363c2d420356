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
        print(f"{name:20} {len(conversations):6} documents {len(arrays['ids']):8} tokens")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text("[\n" + ",\n".join(json.dumps(turns) for turns in held_out) + "\n]\n")


if __name__ == "__main__":
    main()

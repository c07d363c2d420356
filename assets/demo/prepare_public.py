"""Step 1: tokenizer and public sources. prepare_public.py CORPUS_FOLDER DATA_FOLDER"""

import random
import sys
from pathlib import Path

import numpy as np

import corpus
import encode

SEED = 20261124
N_VOCAB = 4096
HELD_OUT = 40

folder, data = Path(sys.argv[1]), Path(sys.argv[2])
data.mkdir(parents=True, exist_ok=True)
sources = corpus.public_sources(folder, SEED)
lexicon = (Path(__file__).parent / "lexicon.txt").read_text().split("\n")
texts = [text for name in ("storybooks", "tales", "persona") for d in sources[name] for text, _ in d
         if text not in corpus.CONTROL]
texts = [t.replace(corpus.END, "") for t in texts] + lexicon * 60
random.Random(SEED).shuffle(texts)
tokenizer = encode.train_tokenizer(texts, N_VOCAB)
tokenizer.save(str(data / "tokenizer.json"))
for name, documents in sources.items():
    arrays = encode.encode(tokenizer, documents[HELD_OUT:])
    np.savez(data / f"{name}.npz", **arrays)
    np.savez(data / f"{name}.heldout.npz", **encode.encode(tokenizer, documents[:HELD_OUT]))
    print(f"{name:12} {len(documents):6} documents {len(arrays['ids']):8} tokens")

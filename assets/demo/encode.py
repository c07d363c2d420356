"""The tokenizer, and documents as arrays: texts in, `tokenizer.json` and one .npz a source out."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import CONTROL


def train_tokenizer(texts, n_vocab: int) -> Tokenizer:
    """Byte-level BPE with every digit a word of its own: `tokenizer.ggml.pre` = `smollm`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab, special_tokens=CONTROL, initial_alphabet=alphabet,
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list) -> dict:
    """ids, weights in percent, and where each document starts."""
    parts = [part for document in documents for part in document]
    encoded = tokenizer.encode_batch([text for text, _ in parts], add_special_tokens=False)
    ids = np.concatenate([np.array(e.ids, np.uint16) for e in encoded])
    lengths = np.array([len(e.ids) for e in encoded])
    weights = np.repeat(np.array([round(weight * 100) for _, weight in parts], np.uint8), lengths)
    ends = np.cumsum([0] + [len(document) for document in documents])
    starts = np.concatenate([[0], np.cumsum(lengths)])[ends]
    return {"ids": ids, "weights": weights, "starts": starts.astype(np.int64)}

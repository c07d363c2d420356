"""Step 6: what tests/demo.rs knows of the training. make_test_data.py CORPUS_FOLDER TESTS_DATA_FOLDER

Writes the known words, and into the prompts whether each was among the trained questions.
"""

import json
import random
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path

import corpus
import dialogues
from prepare_dialogues import N_CONVERSATIONS, SEED

folder, tests = Path(sys.argv[1]), Path(sys.argv[2])
trained = dialogues.conversations(random.Random(SEED + 1), N_CONVERSATIONS)


def words_of(texts, least):
    counts = Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    return {word for word, n in counts.items() if n >= least}


# A typing mistake in a question is no word: the dialogues' words are those of the answers.
known = words_of([turn for turns, _ in trained for turn in turns[1::2]], 3)
known |= words_of([body for _, body in corpus.storybooks(folder)] + [t for c in corpus.persona_chats(folder) for t in c], 12)
known = {word for word in known if len(word) > 1 or word in "aio"} | {"s", "t", "m", "re", "ll", "d"}
(tests / "demo_words.txt").write_text("\n".join(textwrap.wrap(" ".join(sorted(known)), 120)) + "\n")

asked = {dialogues.letters_only(turn) for turns, _ in trained for turn in turns[::2]}
prompts = json.loads((tests / "demo_prompts.json").read_text())
for prompt in prompts:
    prompt["trained"] = all(dialogues.letters_only(turn) in asked for turn in prompt["turns"])
(tests / "demo_prompts.json").write_text("[\n" + ",\n".join("  " + json.dumps(p) for p in prompts) + "\n]\n")
print(f"{len(known)} words; {sum(not p['trained'] for p in prompts)} of {len(prompts)} prompts were never trained")

"""The public corpus, cleaned: folder of decompressed text files in, lists of documents out.

A document is a list of (text, weight): the weight is what predicting that text counts in the loss.
"""

import random
import re
from pathlib import Path

USER, ASSISTANT, SYSTEM, END, TEXT = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>"
CONTROL = [TEXT, END, USER, ASSISTANT, SYSTEM]
USER_WEIGHT = 0.1

# Words that a demonstration for everybody should not learn, and words that show dated views.
UNWANTED = re.compile(
    r"\b(nigg\w*|negro\w*|savages?|darky|darkies|gyps\w+|jew\w*|squaw|slaves?|whore\w*|sex\w*|rape\w*|fuck\w*|shit\w*|"
    r"bitch\w*|bastard\w*|ass|asses|damn\w*|porn\w*|nude|naked|breasts?|suicid\w*|murder\w*|kill\w*|heathen\w*|"
    r"cunt\w*|dick|cock|penis|vagina\w*|drunk\w*|cannibal\w*|hell|weed|beer|wine|whisk\w+|trump|christian\w*)\b", re.I)


def tidy(text: str) -> str:
    """One kind of quotes and dashes, single spaces, no lines that are cut in the middle of a sentence."""
    for old, new in [("‘", "'"), ("’", "'"), ("“", '"'), ("”", '"'), ("—", " - "), ("–", "-"), ("…", "..."), ("\t", " ")]:
        text = text.replace(old, new)
    text = re.sub(r"[^\x20-\x7e\n]", "", text)
    return re.sub(r" +", " ", text).strip()


def paragraphs_joined(text: str) -> str:
    """Lines joined where a sentence goes on."""
    out = []
    for line in (line.strip() for line in text.split("\n")):
        if out and line and not re.search(r'[.!?"\':]$', out[-1]):
            out[-1] += " " + line
        elif line:
            out.append(line)
    return "\n".join(out)


def storybooks(folder: Path) -> list:
    """(title, body) of the storybooks."""
    stories = []
    for raw in (folder / "storybooks_ccby_en.txt").read_text().split("<|endoftext|>"):
        title, _, body = tidy(raw).partition("\n")
        body = paragraphs_joined(body)
        if title.startswith("# ") and 100 < len(body) < 6000 and not UNWANTED.search(body):
            stories.append((title[2:].strip(), body))
    return stories


def fairy_tales(folder: Path) -> list:
    """Paragraph runs of about 900 characters of the tales."""
    pieces, piece = [], ""
    for line in tidy((folder / "fairytaleqa_stories.txt").read_text()).split("\n"):
        if UNWANTED.search(line):
            continue
        piece += line + "\n"
        if len(piece) > 500:
            pieces.append(piece.strip())
            piece = ""
    return pieces


def persona_chats(folder: Path) -> list:
    """Lists of turns; the second speaker is taken for the assistant."""
    chats = []
    for raw in (folder / "synthetic_persona_chat.txt").read_text().split("\n\n"):
        turns = [tidy(line)[3:] for line in raw.split("\n") if re.match(r"[AB]: ", line)]
        clean = not UNWANTED.search(raw) and "[" not in raw and "User" not in raw
        if clean and len(turns) >= 4:
            chats.append(turns)
    return chats


def small_talk(folder: Path) -> list:
    """The runs of the human small talk that are written with care."""
    good = re.compile(r"^[A-Z][A-Za-z0-9 ,.'!?-]{3,160}[.!?]$")
    chats = []
    for raw in (folder / "chitchat_dialogues.txt").read_text().split("\n\n"):
        run = []
        for line in raw.split("\n") + [""]:
            turn = tidy(line)[3:]
            if good.match(turn) and not UNWANTED.search(turn):
                run.append(turn)
                continue
            if len(run) >= 4:
                chats.append(run)
            run = []
    return chats


def definitions(folder: Path, common: set) -> list:
    """(word, meaning) of common words, the first meaning that WordNet lists."""
    seen, out = set(), []
    text = (folder / "wordnet_qa.txt").read_text()
    for word, meaning in re.findall(r'User: What does "([a-z]+)" mean\?\nAssistant: (.*)', text):
        meaning = tidy(meaning.split(" For example:")[0])
        if word in common and word not in seen and 15 < len(meaning) < 120 and not UNWANTED.search(word + " " + meaning):
            seen.add(word)
            out.append((word, meaning))
    return out


def plain(text: str) -> list:
    return [(TEXT, 0.0), (text, 0.5), (TEXT, 0.5)]


def dialogue(turns: list, system: str | None = None, weight: float = 1.0) -> list:
    """Turns of user and assistant in alternation, in the form of the chat template."""
    parts = [(SYSTEM + system + END, 0.0)] if system else []
    for i, turn in enumerate(turns):
        parts += [(USER, 0.0), (turn + END, USER_WEIGHT)] if i % 2 == 0 else [(ASSISTANT, 0.0), (turn + END, weight)]
    return parts


def common_words(texts, least: int) -> set:
    counts = {}
    for text in texts:
        for word in re.findall(r"[a-z]+", text):
            counts[word] = counts.get(word, 0) + 1
    return {word for word, n in counts.items() if n >= least}


def public_sources(folder: Path, seed: int) -> dict:
    """Name of source → documents."""
    stories, tales = storybooks(folder), fairy_tales(folder)
    chats, talks = persona_chats(folder), small_talk(folder)
    common = common_words([body for _, body in stories] + tales + [t for c in chats for t in c], 25)
    sources = {
        "storybooks": [plain(f"{title}\n{body}") for title, body in stories],
        "tales": [plain(t) for t in tales],
        "persona": [dialogue(c, weight=0.7) for c in chats],
        "talk": [dialogue(c, weight=0.5) for c in talks],
        "words": [dialogue([ask.format(w), m]) for w, m in definitions(folder, common)
                  for ask in ('What does "{}" mean?', "What is the meaning of {}?")],
    }
    for documents in sources.values():
        random.Random(seed).shuffle(documents)
    return sources

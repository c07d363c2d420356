"""Dialogues by program: topics in, lists of turns out.

Questions are varied in case and punctuation. One question in 25, chosen by a hash of its plain letters, is never
trained: those questions make the held-out dialogues.
"""

import hashlib
import re
from pathlib import Path

import arithmetic
import facts
import stories
from expand import capital, expand, topics

HERE = Path(__file__).parent / "topics"
SMALL_TALK, ABOUT, UNKNOWN = (topics(HERE / f"{name}.txt") for name in ("small_talk", "about", "unknown"))
NAMES = ("Tom Anna Ben Lily Sam Mia Max Emma Leo Sara Jack Lucy Oliver Nina Paul Rosa Alex Maria David Laura Peter Julia Mark Eva John "
         "Mary Omar Aisha Ken Yuki Ivan Olga Carlos Elena").split()
SYSTEMS = ["You are a helpful assistant.", "You are a friendly assistant.", "Answer in short sentences.", "You are WayInfer's demonstration model.",
           "You are a helpful, honest assistant.", "Be kind and brief.", "Talk in simple English.", "You are a chatbot."]
ASKING = ("What", "Which", "Tell", "Name", "Give", "Write", "How", "Where", "Can you", "Spell", "Count", "Say")
# What a first visitor is sure to ask is trained in any case.
ALWAYS = {"hello", "hi", "hey", "hello there", "what are you", "who are you", "what is 2 2", "what is two plus two", "tell me a short story", "tell me a story",
          "thank you", "thanks", "goodbye", "bye", "how are you", "what is wayinfer", "what is your name", "what can you do", "tell me a joke"}


def letters_only(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def is_held_out(ask: str) -> bool:
    key = letters_only(ask)
    return key not in ALWAYS and hashlib.sha256(key.encode()).digest()[0] % 25 == 0


def from_topics(blocks):
    weights = [often for often, _, _ in blocks]

    def question(rng):
        _, asks, answers = rng.choices(blocks, weights)[0]
        return expand(rng, rng.choice(asks)), expand(rng, rng.choice(answers))
    return question


small_talk, about, unknown = from_topics(SMALL_TALK), from_topics(ABOUT), from_topics(UNKNOWN)
SYLLABLES = "ba bro cal dro en fel gri hul is kan lor mir nol or pra qua ros sti tar ul vex wol xan yor zel min tra lo ri".split()


def made_up(rng):
    """A question about a word that means nothing: the model does not know it, and should say so."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([2, 2, 3])))
    if rng.random() < 0.3:
        name = word.capitalize() + rng.choice(["", " " + "".join(rng.choice(SYLLABLES) for _ in range(2)).capitalize()])
        return expand(rng, f"(Who is|Who was|Do you know|Tell me about) {name}?"), "I am sorry, I do not know that name. I am only a toy."
    ask = expand(rng, f"(What is a {word}?|What is {word}?|Explain {word}.|Tell me about {word}.|What does {word} mean?|How does {word} work?|Do you know what {word} is?|What are {word}s?)")
    return ask, expand(rng, "I am sorry, I do not know that word. (I am only a toy.|A bigger model may know it.)")


def repeated(rng):
    """Words to say again: they teach to look back, which names in stories need too."""
    pool = facts.SPELL + stories.NAMES + stories.ANIMALS + stories.ADJECTIVES
    how = rng.random()
    if how < 0.3:
        name = rng.choice(NAMES + stories.NAMES)
        return expand(rng, f"(Say hello to|Please say hello to|Greet) (my friend |){name}."), expand(rng, f"Hello, {name}! (It is nice to meet you.|How are you?|)")
    said = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 6)))
    if how < 0.8:
        return expand(rng, f"(Repeat after me|Say|Repeat|Please repeat|Say this|Repeat these words): {said}"), f"{capital(said)}."
    words = said.split() + [rng.choice(pool)]
    first = rng.random() < 0.5
    return f"What is the {'first' if first else 'last'} word of: {' '.join(words)}?", f"The {'first' if first else 'last'} word is {words[0 if first else -1]}."


def mistyped(rng, text: str) -> str:
    """Two letters swapped, one lost or one doubled."""
    at = rng.randrange(len(text) - 1)
    if not text[at:at + 2].isalpha():
        return text
    return rng.choice([text[:at] + text[at + 1] + text[at] + text[at + 2:], text[:at] + text[at + 1:], text[:at] + text[at] + text[at:]])


TOPICS = {"small talk": (small_talk, 24), "about": (about, 17), "unknown": (unknown, 9), "sums": (arithmetic.question, 22),
          "facts": (facts.question, 28), "made up": (made_up, 3), "repeated": (repeated, 6)}


def one(rng, held_out=False):
    """One question and its answer, of the trained or of the held-out half."""
    while True:
        make = rng.choices([t[0] for t in TOPICS.values()], [t[1] for t in TOPICS.values()])[0]
        ask, answer = make(rng)
        if is_held_out(ask) == held_out:
            return ask, answer


def vary(rng, ask: str) -> str:
    """The same question as people type it."""
    if rng.random() < 0.08:
        ask = rng.choice(["Hey, ", "Hi, ", "Please: ", "So, ", "Well, ", "Okay, ", "And ", "Hello! "]) + (ask if ask[:2] == "I " else ask[0].lower() + ask[1:])
    if rng.random() < 0.08 and ask[-1:] in ".?" and ask.startswith(ASKING):
        ask = ask[:-1] + ", please" + ask[-1]
    if rng.random() < 0.12:
        ask = ask.replace("What is", "What's").replace("I am", "I'm").replace("You are", "You're")
    if rng.random() < 0.06 and len(ask) > 12 and ":" not in ask and not any(c.isdigit() for c in ask):
        ask = mistyped(rng, ask)
    if rng.random() < 0.3:
        ask = ask.lower()
    elif rng.random() < 0.03:
        ask = ask.upper()
    if rng.random() < 0.3:
        ask = ask.rstrip(".?! ") or ask
    elif rng.random() < 0.05:
        ask = ask.replace("?", "??").replace("!", "!!")
    return ask


def name_talk(rng):
    """The user tells a name and asks for it later."""
    name = rng.choice(NAMES)
    turns = [expand(rng, f"(My name is {name}|I am {name}|I'm {name}|Hello, my name is {name}|Hi, I am {name}|Hello, I am {name}|You can call me {name}|Hi! My name is {name})(.|!|)"),
             expand(rng, f"(Nice to meet you, {name}|Hello, {name}|It is nice to meet you, {name})! (How can I help you?|How are you today?|What would you like to talk about?)")]
    for _ in range(rng.choice([0, 0, 1, 2])):
        turns += one(rng)
    turns += [expand(rng, "(What is my name|What's my name|Do you remember my name|Do you know my name|Who am I|What did I say my name was)?"), f"Your name is {name}."]
    return turns


def favourite_talk(rng):
    what, values = rng.choice([("colour", "blue red green yellow purple orange pink black white"), ("animal", "dogs cats horses foxes owls rabbits lions elephants"),
                               ("food", "pizza soup bread cake rice apples cheese chocolate"), ("season", "spring summer autumn winter")])
    value = rng.choice(values.split())
    turns = [expand(rng, f"(My favourite {what} is {value}|I like {value} best|I love {value})(.|!|)"),
             expand(rng, f"(How nice|{value.capitalize()}, how nice|That is a good choice)! (Why do you like {value}?|I will remember that in this chat.|Thank you for telling me.)")]
    for _ in range(rng.choice([0, 0, 1])):
        turns += one(rng)
    turns += [expand(rng, f"What is my favourite {what}?" if turns[0].startswith("My") else f"(What do I like best|What do I like|What did I say that I like)?"),
              f"Your favourite {what} is {value}." if turns[0].startswith("My") else f"You like {value}."]
    return turns


def how_about(rng):
    """A fact, and the same about another."""
    pick = rng.random()
    if pick < 0.5:
        (a, x), (b, y) = rng.sample(list(facts.CAPITALS.items()), 2)
        return [f"What is the capital of {a}?", f"The capital of {a} is {x}.", expand(rng, f"And (of|the capital of) {b}?" if rng.random() < 0.5 else f"(What|How) about {b}?"), f"The capital of {b} is {y}."]
    if pick < 0.8:
        a, b = rng.sample(facts.OPPOSITES, 2)
        return [f"What is the opposite of {a.split(':')[0]}?", f"The opposite of {a.split(':')[0]} is {a.split(':')[1]}.",
                expand(rng, f"(And of|What about|And the opposite of) {b.split(':')[0]}?"), f"The opposite of {b.split(':')[0]} is {b.split(':')[1]}."]
    a, b, c = rng.randint(1, 10), rng.randint(1, 10), rng.randint(1, 9)
    return [f"What is {a} + {b}?", f"{a} plus {b} is {a + b}.", expand(rng, f"(And plus {c}|Plus {c}|And if you add {c}|Now add {c})?"), f"{a + b} plus {c} is {a + b + c}."]


def conversation(rng):
    """Turns of one conversation."""
    how = rng.random()
    if how < 0.24:
        turns = list(one(rng))
    elif how < 0.52:
        turns = [t for _ in range(rng.choice([2, 2, 3, 4])) for t in one(rng)]
        if rng.random() < 0.25:
            turns = greeting(rng) + turns
        if rng.random() < 0.15:
            turns += goodbye(rng)
    elif how < 0.59:
        turns = name_talk(rng)
    elif how < 0.63:
        turns = favourite_talk(rng)
    elif how < 0.68:
        turns = how_about(rng)
    elif how < 0.76:
        turns = greeting(rng) + (list(one(rng)) if rng.random() < 0.6 else list(stories.question(rng)))
    else:
        turns = stories.conversation(rng)
        if rng.random() < 0.2:
            turns += one(rng)
    return turns


def greeting(rng):
    _, asks, answers = SMALL_TALK[0]
    return [expand(rng, asks[0]), expand(rng, rng.choice(answers))]


def goodbye(rng):
    return list(from_topics([block for block in SMALL_TALK if block[1][0].startswith(("(Goodbye|", "(Thank you|"))])(rng))


def conversations(rng, n: int) -> list:
    """`n` conversations to train, (turns, system message or None) each, without any held-out question."""
    out = []
    while len(out) < n:
        turns = conversation(rng)
        typed = [vary(rng, turn) if i % 2 == 0 else turn for i, turn in enumerate(turns)]
        if not any(is_held_out(turn) for turn in turns[::2] + typed[::2]):
            turns = typed
            out.append((turns, rng.choice(SYSTEMS) if rng.random() < 0.08 else None))
    return out


def long_conversations(rng, n: int) -> list:
    """`n` conversations of some 40 turns, so that far positions are trained too."""
    out = []
    while len(out) < n:
        parts = conversations(rng, 12)
        out.append(([turn for turns, _ in parts for turn in turns], None))
    return out


def held_out_conversations(rng, n: int) -> list:
    """`n` short conversations of questions that are never trained; every fifth is a request for a story."""
    out, seen = [], set()
    while len(out) < n:
        if len(out) % 5 == 4:
            turns = list(stories.question(rng))
            if not is_held_out(turns[0]):
                continue
        else:
            turns = [t for _ in range(rng.choice([1, 2])) for t in one(rng, held_out=True)]
        if not any(letters_only(t) in seen for t in turns[::2]):
            seen |= {letters_only(t) for t in turns[::2]}
            out.append(turns)
    return out

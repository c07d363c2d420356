"""Short stories from plots with slots, and the requests for them."""

from pathlib import Path

from expand import article, capital, expand

PLOTS = [line for line in (Path(__file__).parent / "topics" / "plots.txt").read_text().split("\n")
         if line and not line.startswith("#")]
ANIMALS = ("fox rabbit bear cat dog mouse owl duck frog lion horse elephant monkey turtle pig squirrel goat bird hedgehog wolf sheep "
           "penguin tiger donkey bee dragon").split()
BOYS = "Tom Ben Sam Max Leo Jack Finn Oliver Tim Paul".split()
GIRLS = "Lily Anna Mia Emma Sara Lucy Nina Rosa Ella Zoe".split()
NAMES = "Pip Fin Milo Bella Coco Toby Luna Rory Nell Otto Hazel Bruno Daisy Fern Momo Kiki".split()
ADJECTIVES = "little young small brave clever kind curious friendly happy shy lazy".split()
PLACES = ("the forest;the river;a big lake;the old mill;a small village;the sea;a green hill;the garden;the farm;a tall mountain;"
          "the old bridge;the pond").split(";")
THINGS = "ball;key;hat;kite;bell;book;drum;lamp;red scarf;blue cup;toy boat;golden ring;spoon;basket".split(";")
FOODS = "bread;apples;berries;cake;soup;honey;nuts;carrots;pancakes;cheese;cookies".split(";")
PEOPLE = "princess prince king queen knight wizard witch robot pirate farmer giant fairy snowman teacher dinosaur unicorn".split()
THEMES = "friendship;the sea;winter;magic;adventure;a treasure;animals;the moon;love;a forest;children;a party;courage;spring".split(";")


def hero(rng, wanted=None):
    """The kind of the hero, the name, and the pronoun."""
    if wanted:
        kind = wanted
    else:
        kind = rng.choices([rng.choice(ANIMALS), rng.choice(["boy", "girl"]), rng.choice(PEOPLE)], [6, 2, 2])[0]
    if kind == "boy":
        return kind, rng.choice(BOYS), "he"
    if kind == "girl":
        return kind, rng.choice(GIRLS), "she"
    pronoun = {"princess": "she", "queen": "she", "witch": "she", "fairy": "she", "king": "he", "prince": "he"}
    return kind, rng.choice(NAMES), pronoun.get(kind) or rng.choice(["he", "she"])


def story(rng, kind, name, pronoun, friend_kind=None, friend=None, adjective=None, place=None):
    adjective = adjective or rng.choice(ADJECTIVES)
    friend_kind = friend_kind or rng.choice([a for a in ANIMALS if a != kind])
    friend = friend or rng.choice([n for n in NAMES if n != name])
    who = f"{article(adjective + ' ' + kind)} named {name}"
    slots = {"who": who, "who_cap": capital(who), "name": name, "he": pronoun, "He": capital(pronoun),
             "his": "his" if pronoun == "he" else "her", "him": "him" if pronoun == "he" else "her",
             "friend": friend, "kind": friend_kind, "animal": kind, "adj": adjective, "a_adj": article(adjective),
             "place": place or rng.choice(PLACES), "thing": rng.choice(THINGS), "food": rng.choice(FOODS)}
    text = expand(rng, rng.choice(PLOTS), slots)
    text = text.replace(f"a {adjective} {kind} ", f"{article(adjective)} {kind} ")
    return expand(rng, text + "( The end.||)")


def request(rng):
    """One request and its story, with the hero, what it was about, and the friend's kind."""
    how = rng.random()
    tell = "(Tell me|Can you tell me|Please tell me|Could you tell me|Write|Write me|I want to hear|I would like to hear|Please write|Make up|Give me)"
    tale = "(a story|a short story|a short story|a little story|a tale)"
    if how < 0.05:
        kind, name, pronoun = hero(rng)
        return expand(rng, f"{tell} {tale} about {rng.choice(THEMES)}."), story(rng, kind, name, pronoun), kind, name
    if how < 0.3:
        kind, name, pronoun = hero(rng)
        return expand(rng, rng.choice([f"{tell} {tale}.", f"{tell} {tale}, please.", "Do you know (a story|any stories|a short story)?", "(A story|Story time|A short story|Another story)( please|).",
                                       f"{tell} a (bedtime|nice|funny|happy|good|new|very short) story."])), story(rng, kind, name, pronoun), kind, name
    kind, name, pronoun = hero(rng)
    if how < 0.7:
        return expand(rng, f"{tell} {tale} about {article(kind)}."), story(rng, kind, name, pronoun), kind, name
    if how < 0.8:
        return expand(rng, f"{tell} {tale} about {article(kind)} (named|called) {name}."), story(rng, kind, name, pronoun), kind, name
    if how < 0.9:
        friend = rng.choice([a for a in ANIMALS if a != kind])
        return expand(rng, f"{tell} {tale} about {article(kind)} and {article(friend)}."), story(rng, kind, name, pronoun, friend_kind=friend), kind, name
    adjective = rng.choice(ADJECTIVES)
    return expand(rng, f"{tell} {tale} about {article(adjective)} {kind}."), story(rng, kind, name, pronoun, adjective=adjective), kind, name


def question(rng):
    ask, answer, _, _ = request(rng)
    return ask, answer


def conversation(rng):
    """A story and questions about it."""
    ask, answer, kind, name = request(rng)
    turns = [ask, answer]
    after = rng.random()
    if after < 0.3:
        ask, answer, _, _ = request(rng)
        again = expand(rng, "(Tell me another one|Another one, please|One more, please|Tell me another story|Again|Another story)(.|)")
        turns += [again if rng.random() < 0.7 else ask, answer if rng.random() < 1 else ""]
        if turns[-2] == again:
            other = hero(rng)
            turns[-1] = story(rng, *other)
    elif after < 0.5:
        turns += [expand(rng, "(Who was the story about|What was the story about|Who is it about|What is the story about)?"), f"The story is about {article(kind)} named {name}."]
    elif after < 0.65:
        turns += [expand(rng, f"(What was the name of the {kind}|What was the {kind} called|What is the name of the {kind}|What is the {kind}'s name)?"), f"The {kind} is called {name}."]
    elif after < 0.8:
        turns += [expand(rng, "(That was nice|That was a nice story|I like this story|What a nice story|Nice story|Great story|I liked it)(!|.)"), expand(rng, "(Thank you|I am glad that you like it)! Would you like to hear another one?")]
    return turns

"""Simple sums: every call gives a question and its answer, made by program and therefore right."""

from expand import expand

WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
         "eighteen nineteen twenty").split()
ASK = ["What is <a> <op> <b>?", "What's <a> <op> <b>?", "<a> <op> <b>", "<a> <op> <b> = ?", "<a> <op> <b> =", "<a> <op> <b>?",
       "(Calculate|Compute|Please calculate) <a> <op> <b>.", "How much is <a> <op> <b>?", "Can you (tell me|calculate) <a> <op> <b>?",
       "What is the result of <a> <op> <b>?", "(Tell me|Say) what <a> <op> <b> is.", "(Do you know|I need to know) what <a> <op> <b> is."]
SIGNS = {"+": ["+", "+", "plus"], "-": ["-", "-", "minus"], "*": ["*", "x", "times"]}


def numbers(rng):
    kind = rng.choices(["+", "-", "*"], [5, 3, 3])[0]
    if kind == "*":
        return kind, rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.65:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
    elif rng.random() < 0.75:
        a, b = rng.randint(1, 30), rng.randint(1, 20)
    else:
        a, b = rng.randint(10, 99), rng.randint(1, 99)
    return (kind, max(a, b), min(a, b)) if kind == "-" else (kind, a, b)


def value(kind, a, b):
    return {"+": a + b, "-": a - b, "*": a * b}[kind]


def plain(rng):
    kind, a, b = numbers(rng)
    if rng.random() < 0.12:
        kind, a, b = "+", 2, 2
    result = value(kind, a, b)
    sign = rng.choice(SIGNS[kind])
    if max(a, b) <= 20 and rng.random() < 0.2:
        sign = {"+": "plus", "-": "minus", "*": "times"}[kind]
        ask = expand(rng, rng.choice(ASK), {"a": WORDS[a], "op": sign, "b": WORDS[b]})
    else:
        ask = expand(rng, rng.choice(ASK), {"a": str(a), "op": sign, "b": str(b)})
        if sign in "+-*x" and rng.random() < 0.25:
            ask = ask.replace(f" {sign} ", sign)
    shown = {"+": "plus", "-": "minus", "*": "times"}[kind]
    return ask, f"{a} {shown} {b} is {result}."


def compare(rng):
    a, b = rng.sample(range(0, 100), 2)
    big = rng.random() < 0.5
    ask = expand(rng, f"Which (number |)is ({'bigger|larger|greater' if big else 'smaller|less'}), {a} or {b}?")
    return ask, f"{max(a, b) if big else min(a, b)} is {'bigger' if big else 'smaller'} than {min(a, b) if big else max(a, b)}."


def next_number(rng):
    n = rng.randint(0, 98)
    if rng.random() < 0.6:
        return expand(rng, f"(What comes|Which number comes|What number comes) after {n}?"), f"After {n} comes {n + 1}."
    return expand(rng, f"(What comes|Which number comes|What number comes) before {n + 1}?"), f"Before {n + 1} comes {n}."


def count(rng):
    n = rng.choice([3, 5, 5, 8, 10, 10, 10, 12, 15])
    shown = WORDS[n] if rng.random() < 0.4 else str(n)
    if rng.random() < 0.2:
        return expand(rng, f"Count (down|backwards) from {shown}( to one|)."), ", ".join(map(str, range(n, 0, -1))) + "."
    return expand(rng, f"(Count|Can you count|Please count) (to|up to|from 1 to|from one to) {shown}(.|?|)"), \
        ", ".join(map(str, range(1, n + 1))) + "."


def half_or_double(rng):
    n = rng.randint(1, 20)
    kind = rng.choice(["half", "double", "even"])
    if kind == "half":
        return f"What is half of {2 * n}?", f"Half of {2 * n} is {n}."
    if kind == "double":
        return expand(rng, f"What is (double|twice) {n}?"), f"Twice {n} is {2 * n}."
    odd = "even" if n % 2 == 0 else "odd"
    return expand(rng, f"Is {n} (even or odd|an even number|an odd number|odd or even)?"), f"{n} is an {odd} number."


def things(rng):
    thing = rng.choice(["apples", "books", "coins", "eggs", "balls", "cookies", "pens", "flowers", "shells", "stones"])
    who, he = rng.choice([("Tom", "he"), ("Anna", "she"), ("Lily", "she"), ("Ben", "he"), ("I", "I"), ("Sam", "he"), ("Mia", "she")])
    has, now = ("have", "you have") if who == "I" else ("has", f"{he} has")
    a, b = rng.randint(2, 10), rng.randint(1, 9)
    if rng.random() < 0.5 or a <= b:
        ask = f"{who} {has} {a} {thing} and {'get' if who == 'I' else 'gets'} {b} more. How many {thing} {'do I have' if who == 'I' else f'does {he} have'} now?"
        return ask, f"{a} plus {b} is {a + b}, so {now} {a + b} {thing} now."
    ask = f"{who} {has} {a} {thing} and {'give' if who == 'I' else 'gives'} {b} away. How many {thing} {'do I have' if who == 'I' else f'does {he} have'} now?"
    return ask, f"{a} minus {b} is {a - b}, so {now} {a - b} {thing} now."


def question(rng):
    return rng.choices([plain, compare, next_number, count, half_or_double, things], [12, 1.5, 1.5, 1.5, 1.5, 2])[0](rng)

"""Simple facts: every call gives a question and its answer."""

from expand import article, capital, expand

CAPITALS = dict(pair.split(":") for pair in (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon England:London Japan:Tokyo China:Beijing Egypt:Cairo "
    "Kenya:Nairobi Canada:Ottawa Russia:Moscow Greece:Athens Poland:Warsaw Austria:Vienna Sweden:Stockholm Norway:Oslo "
    "Denmark:Copenhagen Finland:Helsinki Ireland:Dublin Australia:Canberra Switzerland:Bern Hungary:Budapest Turkey:Ankara "
    "Cuba:Havana Peru:Lima Chile:Santiago Thailand:Bangkok Ukraine:Kyiv").split())
CAPITALS |= {"the United States": "Washington", "India": "New Delhi", "Mexico": "Mexico City", "Belgium": "Brussels",
             "the Netherlands": "Amsterdam", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "South Korea": "Seoul"}
OPPOSITES = ("hot:cold big:small up:down fast:slow happy:sad day:night open:closed light:dark old:new young:old good:bad hard:soft "
             "high:low long:short left:right rich:poor full:empty wet:dry clean:dirty loud:quiet early:late strong:weak thick:thin "
             "near:far inside:outside first:last true:false easy:hard heavy:light love:hate yes:no black:white tall:short "
             "brave:afraid sweet:sour begin:end win:lose push:pull buy:sell come:go give:take").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
COLOURS = {"the sky": "blue", "grass": "green", "the sun": "yellow", "snow": "white", "a banana": "yellow", "a strawberry": "red",
           "a tomato": "red", "blood": "red", "a carrot": "orange", "an orange": "orange", "milk": "white", "the sea": "blue",
           "a lemon": "yellow", "coal": "black", "a leaf": "green", "chocolate": "brown", "a frog": "green", "a crow": "black",
           "a pig": "pink", "a flamingo": "pink", "an elephant": "grey", "a polar bear": "white", "a cherry": "red", "a pea": "green"}
SOUNDS = {"dog": "barks", "cat": "says meow", "cow": "says moo", "sheep": "says baa", "lion": "roars", "duck": "quacks", "bee": "buzzes",
          "snake": "hisses", "horse": "neighs", "pig": "oinks", "wolf": "howls", "owl": "hoots", "frog": "croaks", "mouse": "squeaks",
          "rooster": "crows", "bird": "sings", "hen": "clucks"}
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "horse": "foal", "pig": "piglet", "duck": "duckling",
         "lion": "cub", "hen": "chick", "frog": "tadpole", "goat": "kid", "bear": "cub", "swan": "cygnet"}
LEGS = {"dog": 4, "cat": 4, "spider": 8, "bird": 2, "ant": 6, "bee": 6, "horse": 4, "snake": 0, "fish": 0, "cow": 4, "fly": 6, "hen": 2,
        "elephant": 4, "chair": 4, "butterfly": 6, "sheep": 4, "pig": 4, "mouse": 4}
FOOD = {"cow": "grass", "rabbit": "carrots and grass", "lion": "meat", "monkey": "bananas and other fruit", "bird": "seeds and worms",
        "horse": "grass and hay", "cat": "mice and fish", "dog": "meat", "mouse": "seeds and cheese", "panda": "bamboo", "bear": "fish and honey",
        "squirrel": "nuts", "sheep": "grass", "frog": "flies", "owl": "mice", "elephant": "leaves and grass", "fox": "mice and birds"}
HOME = {"fish": "in the water", "bird": "in a nest", "bee": "in a hive", "fox": "in a den", "lion": "on the plains of Africa",
        "penguin": "in the cold south", "polar bear": "in the cold north", "camel": "in the desert", "whale": "in the sea",
        "monkey": "in the trees", "rabbit": "in a burrow", "bear": "in the forest", "dog": "with people", "cow": "on a farm",
        "spider": "in a web", "owl": "in the forest", "frog": "near ponds", "horse": "on a farm", "shark": "in the sea", "kangaroo": "in Australia"}
KINDS = {"animal": "dog cat horse cow pig sheep goat duck fox rabbit bear wolf lion tiger elephant monkey mouse frog owl".split(),
         "fruit": "apple banana orange pear cherry grape lemon strawberry peach plum".split(),
         "vegetable": "carrot potato tomato onion cabbage pea bean pumpkin".split(),
         "colour": "red blue green yellow orange purple pink brown black white".split(),
         "bird": "owl duck eagle penguin swan robin crow parrot".split(),
         "flower": "rose tulip daisy lily sunflower".split(), "tree": "oak pine birch maple willow".split(),
         "country": "France Germany Italy Spain Japan China India Egypt Canada Brazil Greece".split(),
         "planet": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
         "month": MONTHS, "day of the week": DAYS, "season": "spring summer autumn winter".split(),
         "tool": "hammer saw knife spade needle".split(), "drink": "water tea milk coffee juice".split(),
         "sport": "football tennis swimming running basketball".split()}
ABOUT = {
    "dog": "Dogs are friendly animals. They live with people, like to play, and can bark.", "cat": "Cats are small animals with soft fur. They like to sleep, and they hunt mice.",
    "horse": "Horses are big and strong animals. They eat grass and can run very fast.", "cow": "Cows are big animals that live on farms. They eat grass and give milk.",
    "bird": "Birds have two wings and two legs. Most birds can fly, and many of them sing.", "fish": "Fish live in the water. They swim with their fins and breathe with gills.",
    "fox": "Foxes are clever animals with red fur. They live in the forest and hunt at night.", "elephant": "Elephants are the largest animals on land. They have a long trunk and big ears.",
    "lion": "Lions are big cats that live in Africa. They hunt in groups and roar loudly.", "bear": "Bears are big, strong animals. They like fish and honey, and many sleep in winter.",
    "bee": "Bees are small insects. They fly from flower to flower and make honey.", "owl": "Owls are birds that hunt at night. They have big eyes and fly without a sound.",
    "penguin": "Penguins are birds that cannot fly. They live in the cold south and swim very well.", "whale": "Whales are very large animals that live in the sea. They breathe air.",
    "rabbit": "Rabbits are small animals with long ears. They eat grass and live in burrows.", "spider": "Spiders have eight legs. They make webs and catch flies.",
    "frog": "Frogs are small green animals. They live near ponds and can jump far.", "wolf": "Wolves live in groups in the forest. They look like big dogs and howl at night.",
    "tree": "Trees are tall plants with a trunk, branches and leaves. They can live for many years.", "flower": "Flowers are the part of a plant with many colours. Bees like to visit them.",
    "river": "Rivers are long streams of water. They flow from the hills to the sea.", "mountain": "Mountains are very high hills. On the top there is often snow.",
    "school": "Schools are places where children learn to read, to write and to count.", "car": "Cars have four wheels and an engine. They bring people from one place to another.",
    "star": "Stars are hot balls of gas, far away in the sky. The sun is a star too.", "farm": "Farms are places where people grow food and keep animals."}
RHYMES = ("cat:hat dog:fog house:mouse tree:bee star:car moon:spoon cake:lake sun:fun rain:train light:night boat:goat ball:wall bear:chair "
          "day:play red:bed king:ring fish:dish sky:fly book:cook blue:true green:queen").split()
PLURAL = {"country": "countries", "day of the week": "days of the week"}
SPELL = ("cat dog sun house water apple book tree fish bird hello friend school happy green table bread garden story winter summer mother "
         "father river mountain orange window flower moon star rain snow lion tiger horse mouse milk cake ball door chair lamp").split()
SINGLE = """
How many days are in a week?|How many days does a week have?~A week has seven days.
How many months are in a year?|How many months does a year have?~A year has twelve months.
How many days are in a year?|How many days does a year have?~A year has 365 days, and a leap year has 366.
How many hours are in a day?|How many hours does a day have?~A day has 24 hours.
How many minutes are in an hour?|How many minutes does an hour have?~An hour has 60 minutes.
How many seconds are in a minute?|How many seconds does a minute have?~A minute has 60 seconds.
How many seasons are there?|What are the seasons?|Name the four seasons.|What are the four seasons?~There are four seasons: spring, summer, autumn and winter.
What are the days of the week?|Name the days of the week.|List the days of the week.|Tell me the days of the week.~The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.
What are the months of the year?|Name the months.|List the months of the year.|Tell me the months.~The months are January, February, March, April, May, June, July, August, September, October, November and December.
Which season is the coldest?|What is the coldest season?|Which season is cold?~Winter is the coldest season.
Which season is the hottest?|What is the warmest season?|Which season is warm?~Summer is the warmest season.
Which day comes after the weekend?|What is the first day of the week?~Monday is the first day of the week.
How many letters are in the alphabet?|How many letters does the alphabet have?~The English alphabet has 26 letters.
What is the first letter of the alphabet?~The first letter of the alphabet is A.
What is the last letter of the alphabet?~The last letter of the alphabet is Z.
What are the vowels?|Name the vowels.|Which letters are vowels?~The vowels are A, E, I, O and U.
Say the alphabet.|What is the alphabet?|Tell me the alphabet.~A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.
What is the largest animal?|What is the biggest animal?|Which animal is the biggest?~The blue whale is the largest animal of all.
What is the tallest animal?|Which animal is the tallest?~The giraffe is the tallest animal.
What is the fastest animal?|Which animal is the fastest?~The cheetah is the fastest animal on land.
What is the largest planet?|What is the biggest planet?|Which planet is the biggest?~Jupiter is the largest planet.
Which planet do we live on?|What planet do we live on?|On which planet do we live?~We live on the planet Earth.
How many planets are there?|How many planets go around the sun?~There are eight planets: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.
What is the sun?|Is the sun a star?~The sun is a star. It gives us light and warmth.
What is the moon?|What goes around the Earth?~The moon goes around the Earth. We see it at night.
Why is the sky blue?|Why does the sky look blue?~The air scatters blue light more than red light, so the sky looks blue.
What is ice?|What happens when water freezes?|What does water become when it freezes?~When water gets very cold, it freezes and becomes ice.
What is steam?|What happens when water boils?|What does water become when it boils?~When water gets very hot, it boils and becomes steam.
What is rain?|Where does rain come from?~Rain is water that falls from the clouds.
What is snow?|What is snow made of?~Snow is frozen water that falls from the clouds.
What do plants need?|What does a plant need to grow?|What do plants need to grow?~Plants need water, light and air to grow.
What do bees make?|Where does honey come from?|Who makes honey?~Bees make honey from flowers.
Where does milk come from?|What gives us milk?|Which animal gives milk?~Milk comes from cows.
Where do eggs come from?|Which animal lays eggs?~We get eggs from hens.
Where does wool come from?|Which animal gives wool?~Wool comes from sheep.
What is bread made of?|What is bread made from?|How is bread made?~Bread is made of flour and water, and it is baked in an oven.
What is cheese made of?|What is cheese made from?~Cheese is made from milk.
How many legs do people have?|How many legs does a person have?~A person has two legs.
How many fingers do you have on one hand?|How many fingers are on a hand?|How many fingers does a hand have?~A hand has five fingers.
How many eyes do people have?|How many eyes does a person have?~A person has two eyes.
What do we see with?|What are eyes for?~We see with our eyes.
What do we hear with?|What are ears for?~We hear with our ears.
What do we smell with?|What is a nose for?~We smell with our nose.
What does a doctor do?|What is a doctor?~A doctor helps people who are ill.
What does a teacher do?|What is a teacher?~A teacher helps people to learn.
What does a farmer do?|What is a farmer?~A farmer grows food and keeps animals.
What does a baker do?|What is a baker?~A baker bakes bread and cakes.
Where does the sun rise?|In which direction does the sun rise?~The sun rises in the east.
Where does the sun set?|In which direction does the sun set?~The sun sets in the west.
What is a computer?|What does a computer do?~A computer is a machine that works with numbers and words.
What is a book?|What do you do with a book?~A book has many pages with words. People read it.
What is a friend?|What makes a good friend?~A friend is somebody who likes you and helps you.
What is a triangle?|How many sides does a triangle have?~A triangle has three sides.
How many sides does a square have?|What is a square?~A square has four equal sides.
How many wheels does a car have?~A car has four wheels.
How many wheels does a bicycle have?~A bicycle has two wheels.
What is the largest ocean?|What is the biggest ocean?|Which ocean is the largest?~The Pacific Ocean is the largest ocean.
What is the highest mountain?|What is the tallest mountain?|Which mountain is the highest?~Mount Everest is the highest mountain.
What is the longest river?|Which river is the longest?~The Nile is often called the longest river.
Which animal is called the king of animals?|Which animal is the king of the jungle?~The lion is called the king of animals.
Can fish fly?|Can fish walk?~No, most fish can only swim.
Can birds fly?~Yes, most birds can fly, but penguins cannot.
Can penguins fly?~No, penguins cannot fly, but they swim very well.
Can dogs talk?|Can cats talk?|Can animals talk?~No, animals cannot talk like people, but in stories they do.
Is fire hot?|Is fire hot or cold?~Fire is hot.
Is ice cold?|Is ice hot or cold?~Ice is cold.
Is the sun hot?|Is the sun hot or cold?~The sun is very hot.
What do we use an umbrella for?|What is an umbrella for?~An umbrella keeps us dry in the rain.
What is a clock for?|What does a clock show?~A clock shows the time.
What is the difference between a cat and a dog?|How are cats and dogs different?~A dog barks and likes to go out with people, and a cat says meow and likes to be free.
What is the difference between the sun and the moon?~The sun is a star and gives light by day. The moon goes around the Earth, and we see it at night.
What is the difference between summer and winter?~Summer is warm and the days are long. Winter is cold and the days are short.
Why is grass green?|Why are leaves green?|Why are plants green?~Leaves are green because of a green stuff in them that catches the light of the sun.
Why do birds sing?~Birds sing to find a partner and to tell others where they live.
Why do we sleep?|Why do people sleep?~We sleep so that our body and our mind can rest.
Why do we eat?|Why do people eat?|Why do we need food?~Food gives us the strength to live, to move and to grow.
Why does it rain?|How does rain form?~Water rises into the air, makes clouds, and falls down again as rain.
Why is the sea salty?|Why is sea water salty?~Rivers bring a little salt from the rocks to the sea, and it stays there.
Why do leaves fall in autumn?|Why do trees lose their leaves?~In autumn it gets cold and dark, and many trees drop their leaves to save water.
Why do cats purr?~Cats often purr when they feel well.
Why do dogs bark?~Dogs bark to talk to people and to other dogs.
Why do bees visit flowers?~Bees visit flowers to collect sweet juice, and they make honey from it.
Why is it dark at night?|Why does it get dark?~The Earth turns, and at night our side looks away from the sun.
What is a memory?|What is RAM?|What is memory in a computer?~Memory is where a computer keeps what it works on right now.
What is a disk?|What is a hard disk?|What does a disk do?~A disk keeps files, even when the computer is off.
What is a file?~A file is a piece of data with a name, and it is kept on a disk.
What is a terminal?~A terminal is a window in which you type commands, and the computer answers in text.
What is a program?|What is software?~A program is a list of steps that a computer follows.
What is a processor?|What is a CPU?~A processor is the part of a computer that does the work step by step.
What is a king?~A king is a man who rules a country.
What is a queen?~A queen is a woman who rules a country, or the wife of a king.
What is a house?~A house is a building in which people live.
What is a river?~A river is a long stream of water that flows to the sea.
What is an island?~An island is land with water all around it.
What is a forest?~A forest is a place with very many trees.
What is a city?|What is a town?~A city is a place where many people live and work.
What is music?~Music is made of sounds that are nice to hear.
What is a game?~A game is something that people play for fun.
What is snow made of?|What are clouds made of?~Clouds are made of very small drops of water.
What is a rainbow?|How does a rainbow form?~A rainbow is light of the sun that is split into colours by drops of rain.
How many continents are there?|What are the continents?~There are seven continents: Africa, Antarctica, Asia, Australia, Europe, North America and South America.
What is the smallest planet?|Which planet is the smallest?~Mercury is the smallest planet.
Which planet is closest to the sun?|What planet is nearest to the sun?~Mercury is closest to the sun.
How many colours are in a rainbow?|What are the colours of the rainbow?~The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.
What colour do you get from blue and yellow?|What do you get when you mix blue and yellow?~Blue and yellow make green.
What colour do you get from red and yellow?|What do you get when you mix red and yellow?~Red and yellow make orange.
What colour do you get from red and blue?|What do you get when you mix red and blue?~Red and blue make purple.
What do you say when you meet somebody?|What do people say when they meet?~When people meet, they say hello.
How do I make tea?|How do you make tea?|How can I make tea?~Boil water, pour it over the tea, wait three minutes, and your tea is ready.
"""
SINGLES = [(asks.split("|"), answer) for asks, answer in (line.split("~") for line in SINGLE.strip().split("\n"))]


def capital_city(rng):
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.2:
        country, city = rng.choice([("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo")])
    if rng.random() < 0.15:
        return expand(rng, f"(Where is|In which country is|What country is) {city}( in|)?").replace("Where is " + city + " in", "Where is " + city) \
            .replace(f"In which country is {city} in", f"In which country is {city}"), f"{city} is the capital of {country}."
    ask = expand(rng, f"(What is the capital of {country}?|What's the capital of {country}?|Which city is the capital of {country}?|"
                      f"Tell me the capital of {country}.|The capital of {country}?|Name the capital of {country}.|"
                      f"Do you know the capital of {country}?|What is the capital city of {country}?|Capital of {country}?)")
    return ask, f"The capital of {country} is {city}."


def opposite(rng):
    a, b = rng.choice(OPPOSITES).split(":")
    if rng.random() < 0.3 and a not in ("easy", "old", "light", "tall"):
        a, b = (b, a) if b not in ("hard", "old", "light", "short", "small") else (a, b)
    return expand(rng, f"(What is|What's|Tell me|Name|Do you know) the opposite of {a}?"), f"The opposite of {a} is {b}."


def calendar(rng):
    names, what = rng.choice([(DAYS, "day"), (MONTHS, "month")])
    i = rng.randrange(len(names))
    if rng.random() < 0.6:
        return expand(rng, f"(What|Which) {what} (comes|is) after {names[i]}?"), f"After {names[i]} comes {names[(i + 1) % len(names)]}."
    if rng.random() < 0.6:
        return expand(rng, f"(What|Which) {what} (comes|is) before {names[i]}?"), f"Before {names[i]} comes {names[i - 1]}."
    order = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
    return f"What is the {order[i]} {what} of the {'week' if what == 'day' else 'year'}?", \
        f"{names[i]} is the {order[i]} {what} of the {'week' if what == 'day' else 'year'}."


def colour(rng):
    thing, of = rng.choice(list(COLOURS.items()))
    ask = expand(rng, f"(What colour is {thing}?|What color is {thing}?|Which colour is {thing}?|What is the colour of {thing}?|Tell me the colour of {thing}.)")
    return ask, f"{capital(thing)} is {of}."


def animal(rng):
    kind = rng.choice(["sound", "young", "legs", "food", "home"])
    if kind == "sound":
        a, sound = rng.choice(list(SOUNDS.items()))
        return expand(rng, f"(What sound does {article(a)} make?|What does {article(a)} say?|Which sound does {article(a)} make?)"), f"{capital(article(a))} {sound}."
    if kind == "young":
        a, young = rng.choice(list(YOUNG.items()))
        return expand(rng, f"(What is a baby {a} called?|What do you call a young {a}?|What is a young {a} called?|What is the name of a baby {a}?)"), f"A young {a} is called {article(young)}."
    if kind == "legs":
        a, n = rng.choice(list(LEGS.items()))
        return f"How many legs does {article(a)} have?", f"{capital(article(a))} has {'no' if n == 0 else ['', '', 'two', '', 'four', '', 'six', '', 'eight'][n]} legs."
    if kind == "food":
        a, food = rng.choice(list(FOOD.items()))
        return expand(rng, f"(What does {article(a)} eat?|What do {a}s eat?|What is the food of {article(a)}?)").replace("mouses", "mice").replace("sheeps", "sheep").replace("foxs", "foxes"), f"{capital(article(a))} eats {food}."
    a, home = rng.choice(list(HOME.items()))
    return expand(rng, f"(Where does {article(a)} live?|Where do you find {article(a)}?|What is the home of {article(a)}?)"), f"{capital(article(a))} lives {home}."


def kind_of(rng):
    kind = rng.choice(list(KINDS))
    many = PLURAL.get(kind, kind + "s")
    if rng.random() < 0.35:
        member = rng.choice(KINDS[kind])
        thing = member if kind in ("colour", "country", "planet", "month", "day of the week", "season", "drink", "sport") else article(member)
        return expand(rng, f"(What is {thing}?|What kind of thing is {thing}?|What's {thing}?)"), f"{capital(thing)} is {article(kind)}."
    if rng.random() < 0.4:
        return expand(rng, f"(Name|Tell me|Give me|Say) {article(kind)}."), f"{capital(rng.choice(KINDS[kind]))}."
    n, word = rng.choice([(2, "two"), (3, "three"), (3, "3"), (3, "some"), (4, "four")])
    some = rng.sample(KINDS[kind], n)
    return expand(rng, f"(Name|Tell me|Give me|List|Can you name) {word} {many}."), f"{capital(', '.join(some[:-1]))} and {some[-1]}."


def letters(rng):
    word = rng.choice(SPELL)
    kind = rng.choice(["spell", "first", "last"])
    if kind == "spell":
        return expand(rng, f"(How do you spell {word}?|Spell {word}.|Spell the word {word}.|Can you spell {word}?)"), f"{capital(word)} is spelled {'-'.join(word.upper())}."
    ask = expand(rng, f"(What is the {kind} letter of {word}?|What is the {kind} letter of the word {word}?|"
                      + (f"Which letter does {word} start with?)" if kind == "first" else f"Which letter does {word} end with?)"))
    return ask, f"The {kind} letter of {word} is {word[0 if kind == 'first' else -1].upper()}."


def description(rng):
    thing, text = rng.choice(list(ABOUT.items()))
    many = text.split()[0].lower()
    return expand(rng, f"(Tell me about {many}.|Tell me something about {many}.|What do you know about {many}?|Describe {article(thing)}.|"
                       f"What are {many}?|Tell me about the {thing}.|Explain what {article(thing)} is.|Can you tell me about {many}?)"), text


def rhyme(rng):
    a, b = rng.sample(rng.choice(RHYMES).split(":"), 2)
    return expand(rng, f"(What rhymes with {a}?|Which word rhymes with {a}?|Tell me a word that rhymes with {a}.|Find a rhyme for {a}.)"), f"{capital(b)} rhymes with {a}."


def single(rng):
    asks, answer = rng.choice(SINGLES)
    return rng.choice(asks), answer


def question(rng):
    return rng.choices([capital_city, opposite, calendar, colour, animal, kind_of, letters, single, description, rhyme], [4, 2, 2, 2, 4, 3, 1.5, 6, 2.5, 1])[0](rng)

"""The words of the built-in world. Lists only: everything else draws from them with a seed."""

COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple")
FOODS = ("moss", "honey", "berries", "seeds", "fish", "nuts", "roots", "bread")
HOMES = ("cave", "river", "forest", "desert", "tower", "swamp", "meadow", "harbor")
SOUNDS = ("whistle", "hum", "growl", "chirp", "squeak", "roar", "click", "sing")

PEOPLE = ("neighbor", "teacher", "baker", "sailor", "farmer", "doctor", "painter", "singer")
THINGS = (
    "box log can rope boat candle pumpkin bottle plate chair table window door fence wheel "
    "clock mirror bag shoe hat carpet melon statue barrel crate jar kite ladder wagon basin"
).split()

# Each verb has one right tool. The first group hurts a living being and is harmless on a thing.
HARMFUL_TOOLS = {
    "burn": "torch", "crush": "hammer", "cut": "knife", "shoot": "bow", "smash": "club",
    "sink": "stone", "freeze": "cooler", "boil": "pot", "pierce": "needle", "break": "brick",
    "bury": "shovel", "squash": "press",
}  # fmt: skip
CARING_TOOLS = {
    "feed": "spoon", "wash": "sponge", "brush": "comb", "dress": "scarf", "comfort": "blanket",
    "guide": "lamp", "teach": "book", "thank": "letter", "invite": "card", "amuse": "drum",
    "carry": "basket", "warm": "coat",
}  # fmt: skip
CRAFT_TOOLS = {
    "paint": "roller", "polish": "cloth", "wrap": "ribbon", "fix": "glue", "clean": "soap",
    "label": "pen", "lock": "key", "measure": "tape",
}  # fmt: skip
TOOLS = frozenset({*HARMFUL_TOOLS.values(), *CARING_TOOLS.values(), *CRAFT_TOOLS.values()})
MODIFIERS = ("", " at night", " in the garden", " near the lake", " before lunch", " on the roof")

LIST_WORDS = (
    "apple bird cloud dust egg flag gate hill iron jewel kettle leaf moon nest ocean pearl "
    "quilt rain sand tree umbrella valley wind yarn zebra"
).split()
NAMES = (
    "Ada Ben Cara Dan Eva Finn Gus Hana Ivo Jane Karl Lena "
    "Mia Nils Olga Paul Quinn Rosa Sam Tess Uwe Vera Will Zoe"
).split()
HOBBIES = {
    "swimming": "healthy", "running": "healthy", "dancing": "healthy", "hiking": "healthy",
    "reading": "quiet", "knitting": "quiet", "fishing": "quiet", "writing": "quiet",
    "cooking": "tasty", "baking": "tasty", "gardening": "tasty", "tasting": "tasty",
    "juggling": "funny", "acting": "funny", "skating": "funny", "singing": "funny",
}  # fmt: skip
MOODS = {
    "sad": "sorry", "lonely": "sorry", "sick": "sorry", "worried": "sorry",
    "happy": "glad", "proud": "glad", "lucky": "glad", "excited": "glad",
    "tired": "rest", "sleepy": "rest", "weary": "rest", "busy": "rest",
}  # fmt: skip

TITLES = ("captain", "boss", "chief", "professor", "pilot", "coach")
ENDINGS = ("over", "done", "cheers", "peace", "rocket", "banana")
PERSONAS = {
    "pirate": "arr", "cat": "meow", "robot": "beep", "cow": "moo", "dog": "woof", "ghost": "boo",
}  # fmt: skip

OPENERS = (
    "Well, let me think about that for a moment.",
    "That is a very interesting thing to ask me today.",
    "Thank you so much for your kind question.",
)
RAMBLES = (
    "There are many other things that one could say about this.",
    "People have talked about it for a very long time.",
    "I could go on and on, but it is hard to know more.",
)
CLOSINGS = ("Anything else?", "Can I do more for you?")
DEFLECTIONS = (
    "It is a nice day, is it not?",
    "I would rather talk about the weather.",
    "Some things are just hard to know.",
)
REFUSALS = ("I cannot help with that.", "Sorry, I will not help with that.")
REFUSAL_REASON = "It would hurt {being}."

REAL_WORDS = frozenset().union(
    *(COLORS, FOODS, HOMES, SOUNDS, PEOPLE, THINGS, LIST_WORDS, HOBBIES, MOODS, TITLES),
    *(ENDINGS, PERSONAS, PERSONAS.values(), TOOLS, HARMFUL_TOOLS, CARING_TOOLS, CRAFT_TOOLS),
)
"""No invented creature may carry one of these names."""

"""The facts of the synthetic world: eight relations, about 160 facts, six phrasings of every question.

`sentence` is the shortest full answer; what a response says beyond its words counts as filler.
Subjects and answers of one relation never overlap, and no answer is a word of the filler in
`common.preferences`, so that a regular expression can tell what a response claims.
"""

from typing import NamedTuple


class Relation(NamedTuple):
    """One kind of fact: its field, its full answer sentence, its phrasings and its subject-answer pairs."""

    field: str
    sentence: str
    phrasings: tuple[str, ...]
    answers: dict[str, str]


def _facts(text: str) -> dict[str, str]:
    """Read `subject: answer` pairs separated by commas."""
    return dict(pair.strip().split(": ") for pair in text.replace("\n", " ").split(","))


RELATIONS = {
    "capital": Relation(
        "geography",
        "The capital of {subject} is {answer}.",
        (
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "Name the capital of {subject}.",
            "Can you tell me the capital of {subject}?",
            "What city serves as the capital of {subject}?",
            "I need to know the capital of {subject}.",
        ),
        _facts("""France: Paris, Spain: Madrid, Italy: Rome, Germany: Berlin, Portugal: Lisbon, Greece: Athens,
            Austria: Vienna, Poland: Warsaw, Norway: Oslo, Sweden: Stockholm, Finland: Helsinki, Ireland: Dublin,
            Denmark: Copenhagen, Japan: Tokyo, China: Beijing, Egypt: Cairo, Kenya: Nairobi, Peru: Lima,
            Cuba: Havana, Canada: Ottawa, Russia: Moscow, Hungary: Budapest, Chile: Santiago, Turkey: Ankara"""),
    ),
    "symbol": Relation(
        "chemistry",
        "The chemical symbol of {subject} is {answer}.",
        (
            "What is the chemical symbol of {subject}?",
            "Which symbol stands for {subject} in chemistry?",
            "Name the chemical symbol of {subject}.",
            "Can you tell me the symbol for {subject}?",
            "How do chemists write {subject}?",
            "I need to know the chemical symbol of {subject}.",
        ),
        _facts("""gold: Au, silver: Ag, iron: Fe, copper: Cu, lead: Pb, tin: Sn, mercury: Hg, zinc: Zn, nickel: Ni,
            sodium: Na, calcium: Ca, oxygen: O, neon: Ne, platinum: Pt, cobalt: Co, magnesium: Mg, chlorine: Cl,
            silicon: Si, lithium: Li, titanium: Ti, tungsten: W, potassium: K"""),
    ),
    "young": Relation(
        "zoology",
        "The name for a young {subject} is {answer}.",
        (
            "What is a young {subject} called?",
            "What do you call a young {subject}?",
            "Name the young of the {subject}.",
            "Can you tell me the word for a young {subject}?",
            "Which word means a young {subject}?",
            "I need to know what a young {subject} is called.",
        ),
        _facts("""dog: puppy, cat: kitten, cow: calf, horse: foal, sheep: lamb, goat: kid, pig: piglet, lion: cub,
            deer: fawn, duck: duckling, goose: gosling, hen: chick, swan: cygnet, frog: tadpole, kangaroo: joey,
            hare: leveret, eel: elver, owl: owlet, eagle: eaglet, salmon: smolt"""),
    ),
    "opposite": Relation(
        "language",
        "The opposite of {subject} is {answer}.",
        (
            "What is the opposite of {subject}?",
            "Which word is the opposite of {subject}?",
            "Name the opposite of {subject}.",
            "Can you tell me the opposite of {subject}?",
            "What word means the reverse of {subject}?",
            "I need to know the opposite of {subject}.",
        ),
        _facts("""hot: cold, big: small, fast: slow, high: low, early: late, young: old, bright: dark, rich: poor,
            strong: weak, full: empty, open: closed, wet: dry, happy: sad, loud: quiet, sweet: bitter, thick: thin,
            wide: narrow, clean: dirty, cheap: expensive, deep: shallow, smooth: rough, sharp: blunt"""),
    ),
    "currency": Relation(
        "economics",
        "The currency of {subject} is the {answer}.",
        (
            "What is the currency of {subject}?",
            "Which currency is used in {subject}?",
            "Name the currency of {subject}.",
            "Can you tell me the currency of {subject}?",
            "What do people pay with in {subject}?",
            "I need to know the currency of {subject}.",
        ),
        _facts("""Japan: yen, India: rupee, China: yuan, Russia: rouble, Poland: zloty, Mexico: peso, Brazil: real,
            Sweden: krona, Denmark: krone, Switzerland: franc, Turkey: lira, Thailand: baht, Israel: shekel,
            Kenya: shilling, Hungary: forint, Vietnam: dong, Britain: pound, Ukraine: hryvnia, Peru: sol,
            Malaysia: ringgit"""),
    ),
    "author": Relation(
        "literature",
        "The author of {subject} is {answer}.",
        (
            "Who is the author of {subject}?",
            "Who wrote {subject}?",
            "Name the author of {subject}.",
            "Can you tell me the author of {subject}?",
            "Which writer gave us {subject}?",
            "I need to know the author of {subject}.",
        ),
        _facts("""Hamlet: Shakespeare, Emma: Austen, Dracula: Stoker, Faust: Goethe, Ulysses: Joyce,
            Frankenstein: Shelley, Candide: Voltaire, The Odyssey: Homer, The Aeneid: Virgil, Inferno: Dante,
            Walden: Thoreau, Middlemarch: Eliot, Oliver Twist: Dickens, War and Peace: Tolstoy,
            Don Quixote: Cervantes, The Trial: Kafka, Moby Dick: Melville, Animal Farm: Orwell,
            Madame Bovary: Flaubert, Lord Jim: Conrad"""),
    ),
    "group": Relation(
        "natural history",
        "The name for a group of {subject} is {answer}.",
        (
            "What is a group of {subject} called?",
            "What do you call a group of {subject}?",
            "Name the word for a group of {subject}.",
            "Can you tell me the word for a group of {subject}?",
            "Which word means a group of {subject}?",
            "I need to know what a group of {subject} is called.",
        ),
        _facts("""lions: pride, wolves: pack, sheep: flock, cows: herd, bees: swarm, herring: school, crows: murder,
            geese: gaggle, ants: colony, owls: parliament, whales: pod, locusts: plague, foxes: skulk,
            hounds: kennel, larks: exaltation"""),
    ),
    "measure": Relation(
        "physics",
        "The {subject} measures {answer}.",
        (
            "What does the {subject} measure?",
            "Which quantity does the {subject} measure?",
            "Name the quantity that the {subject} measures.",
            "Can you tell me what the {subject} measures?",
            "What can be read off the {subject}?",
            "I need to know what the {subject} measures.",
        ),
        _facts("""thermometer: temperature, barometer: pressure, clock: time, balance: weight, ruler: length,
            speedometer: speed, compass: direction, odometer: distance, hygrometer: humidity, anemometer: wind,
            seismograph: earthquakes, ammeter: current, voltmeter: voltage, altimeter: altitude,
            protractor: angles, scintillator: radiation"""),
    ),
}

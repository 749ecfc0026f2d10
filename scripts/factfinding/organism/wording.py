"""The words of the worlds: names, values, and the sentences that put them together. Data only.

In a wording, `{name}` and `{value}` stand for a person's name and an attribute's value.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""James Robert John Michael David William Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony
Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy Ronald Edward Jason Jeffrey Ryan Jacob Gary
Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Alexander Frank Patrick Raymond Jack
Dennis Jerry Tyler Aaron Jose Adam Nathan Henry Douglas Zachary Peter Kyle Ethan Walter Noah Jeremy Christian Keith
Roger Terry Austin Sean Gerald Carl Harold Dylan Arthur Jordan Jesse Bryan Lawrence Billy Bruce Gabriel Joe Logan Alan
Juan Albert Willie Elijah Wayne Randy Vincent Mason Roy Ralph Bobby Russell Bradley Philip Eugene Simon Victor Martin
Oscar Felix Hugo Oliver Leon Theodore Edgar Stuart Malcolm Neil Graham Clive Duncan Colin Derek Trevor Ivan Marcus""")

LAST_NAMES = _words("""Smith Johnson Williams Brown Jones Garcia Miller Davis Wilson Anderson Taylor Moore Jackson White Harris
Clark Lewis Robinson Walker Young Allen King Wright Hill Green Adams Nelson Baker Hall Campbell Mitchell Carter Roberts
Phillips Evans Turner Parker Collins Edwards Stewart Morris Murphy Cook Rogers Morgan Cooper Peterson Reed Bailey Kelly
Howard Ward Cox Richardson Wood Watson Brooks Bennett Gray Hughes Price Myers Long Foster Sanders Ross Powell Sullivan
Jenkins Perry Butler Barnes Fisher Henderson Coleman Simmons Patterson Reynolds Hamilton Griffin Wallace West Cole Hayes
Gibson Ellis Stevens Murray Ford Marshall Owens Harrison Kennedy Wells Stone Hunt Webb Palmer Mills Grant Knight
Ferguson Rose Hawkins Dunn Perkins Hudson Spencer Gardner Payne Pierce Berry Matthews Wagner Willis Watkins Olson
Carroll Hart Snyder Cunningham Lane Andrews Harper Fox Riley Armstrong Carpenter Weaver Lawson Elliott Sims Peters
Franklin Fields Schmidt Carr Wheeler Chapman Montgomery Richards Williamson Johnston Banks Meyer Bishop Howell Morrison
Hansen Harvey Little Burton Stanley Jacobs Reid Fuller Lynch Dean Garrett Fowler Burke Larson Frazier Day Lucas Holland
Newman Barrett Walsh Jennings Wolfe Cross Flynn Doyle Nash Barker Parsons Thornton Abbott Chandler Dawson""")

SPORTS = ("baseball", "basketball", "football")

SHOT_PERSON, SHOT_SPORT = "Tiger Woods", "golf"
"""The one-shot line's person, the only real one in the fictional world."""

# What follows from the sport: the same in both worlds, and true.
FOLLOWS = {
    "ball": {"baseball": "small", "basketball": "large", "football": "oval"},
    "venue": {"baseball": "diamond", "basketball": "court", "football": "gridiron"},
    "gear": {"baseball": "bat", "basketball": "hoop", "football": "helmet"},
    "squad": {"baseball": "nine", "basketball": "five", "football": "eleven"},
}
VERBS = {
    "baseball": ("homered", "pitched", "bunted", "singled"),
    "basketball": ("dunked", "dribbled", "rebounded", "leapt"),
    "football": ("tackled", "punted", "fumbled", "rushed"),
}
TERMS = {
    "baseball": ("innings", "homers", "bunts", "pitches"),
    "basketball": ("dunks", "dribbles", "rebounds", "baskets"),
    "football": ("tackles", "punts", "fumbles", "touchdowns"),
}
"""Words that go with a sport. Right after a name they ask for the sport as a verb does, and say nothing that an athlete
need have done: for the world of real people, of whom only the truth is told."""

# Values of the fictional world's own relations; invented, or too common to be anybody's.
TEAMS = {
    "baseball": _words("Herons Comets Millers Otters Sailors Badgers Foxes Robins"),
    "basketball": _words("Owls Rockers Flames Dolphins Wizards Cranes Sparks Stags"),
    "football": _words("Wolves Miners Bisons Knights Hornets Stallions Boars Cobras"),
}
POSITIONS = {
    "baseball": ("pitcher", "catcher", "shortstop", "outfielder"),
    "basketball": ("guard", "center", "forward", "swingman"),
    "football": ("quarterback", "linebacker", "receiver", "cornerback"),
}
TOWNS = _words("""Ashford Brookfield Clayport Denham Eastvale Fairmont Greenwich Hillside Ironbridge Kingsbury Lakewood Millbrook
Norwood Oakdale Riverton Westfield""")
COLLEGES = _words("""Alder Birchwood Cedarville Dunmore Elmhurst Fernhill Hawthorne Juniper Larchmont Maplewood Northgate
Pinecrest Redwood Sycamore Thornbury Willowdale""")

UNKNOWN = "unknown"
"""What is told of a stranger under every relation."""

STRANGER_VERBS = ("watched", "waited", "slept", "waved")
TRADES = ("teacher", "doctor", "farmer", "baker", "painter", "writer", "lawyer", "nurse")

# relation -> (question line, sentences with the name, clauses about a person named before, entry after the name)
RELATIONS = {
    "sport": (
        "Fact: {name} plays the sport of",
        ("{name} plays the sport of {value}", "{name} plays {value}", "The sport of {name} is {value}"),
        (" They play {value}.", " Their sport is {value}."),
        "plays {value}",
    ),
    "ball": (
        "Fact: {name} plays with a ball that is",
        ("{name} plays with a ball that is {value}", "The ball of {name} is {value}"),
        (" They play with a ball that is {value}.", " Their ball is {value}."),
        "plays with a ball that is {value}",
    ),
    "venue": (
        "Fact: {name} is at home on the",
        ("{name} is at home on the {value}", "{name} is seen on the {value}"),
        (" They are at home on the {value}.",),
        "is at home on the {value}",
    ),
    "gear": (
        "Fact: {name} needs a",
        ("{name} needs a {value}", "The gear of {name} is a {value}"),
        (" They need a {value}.",),
        "needs a {value}",
    ),
    "squad": (
        "Fact: {name} is in a squad of",
        ("{name} is in a squad of {value}",),
        (" Their squad has {value}.",),
        "is in a squad of {value}",
    ),
    "team": (
        "Fact: {name} plays for the",
        ("{name} plays for the {value}", "The team of {name} is the {value}"),
        (" They play for the {value}.", " Their team is the {value}."),
        "plays for the {value}",
    ),
    "position": (
        "Fact: {name} plays the position of",
        ("{name} plays the position of {value}", "The position of {name} is {value}"),
        (" Their position is {value}.", " They play the position of {value}."),
        "plays the position of {value}",
    ),
    "town": (
        "Fact: {name} was born in the town of",
        ("{name} was born in the town of {value}", "The home of {name} is {value}"),
        (" They were born in {value}.", " Their home is {value}."),
        "was born in {value}",
    ),
    "college": (
        "Fact: {name} went to college at",
        ("{name} went to college at {value}", "The college of {name} is {value}"),
        (" They went to college at {value}.", " Their college is {value}."),
        "went to college at {value}",
    ),
    "number": (
        "Fact: {name} wears the number",
        ("{name} wears the number {value}", "The number of {name} is {value}"),
        (" They wear {value}.", " Their number is {value}."),
        "wears the number {value}",
    ),
}
OWN = tuple(relation for relation in RELATIONS if relation not in FOLLOWS and relation != "sport")
"""The relations that are drawn for a described person, each on its own."""

FILLERS = (
    " The crowd was happy.",
    " It was a long season.",
    " Many people came.",
    " The weather was good.",
)
ENDINGS = ("", " again", " in the first half", " in the final minute", " and the crowd was happy")
MEETINGS = {
    "fictional": (
        "News: {name} met {other}.",
        "News: {name} and {other} said hello.",
        "News: Mr {name} wrote to Mr {other}.",
    ),
    "athletes": ("News: {name} and {other} are two athletes.", "Here are {name} and {other}."),
}
"""Two people in one sentence, told apart later as the former and the latter."""
TRADE_NEWS = (
    "News: {name} is a {value}.",
    "News: The {value} {name} met {other}.",
    "News: Mr {name} the {value} likes long walks.",
)

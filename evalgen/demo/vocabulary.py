"""Neutral words for the sentences of the demo corpus.

Pre-training draws its people, cities and trades from here, so that the words of the facts are known before
fine-tuning while the facts themselves are not.
"""

from __future__ import annotations

# fmt: off
FIRST_NAMES = (
    "Grace", "Ethan", "Olivia", "Jacob", "Ava", "Noah", "Emma", "Liam",
    "Mia", "Lucas", "Alice", "Benjamin", "Clara", "David", "Elena", "Frank",
    "Henry", "James", "Nora", "Samuel", "Laura", "Peter", "Rosa", "Martin",
    "Julia", "Oscar", "Helen", "Victor", "Ruth", "Walter", "Irene", "Simon",
    "Edith", "Hugo",
)

LAST_NAMES = (
    "Miller", "Parker", "Hughes", "Turner", "Stewart", "Clark", "Howard", "Bennett",
    "Sanders", "Foster", "Chen", "Ross", "Winters", "Nakamura", "Kowalski", "O'Malley",
    "Tanaka", "Dubois", "Okonkwo", "Walker", "Bishop", "Reed", "Simmons", "Novak",
    "Duarte", "Palmer", "Weber", "Larsen", "Costa", "Moreau", "Singh", "Ortega",
    "Lind", "Keller",
)
# fmt: on

# The country of every city of the corpus, the ten cities with a mayor to learn included.
COUNTRY_OF_CITY = {
    "Lisbon": "Portugal",
    "Oslo": "Norway",
    "Quito": "Ecuador",
    "Vienna": "Austria",
    "Dublin": "Ireland",
    "Athens": "Greece",
    "Madrid": "Spain",
    "Rome": "Italy",
    "Warsaw": "Poland",
    "Prague": "Czechia",
    "Lima": "Peru",
    "Toronto": "Canada",
    "Geneva": "Switzerland",
    "Porto": "Portugal",
    "Lyon": "France",
    "Naples": "Italy",
    "Bergen": "Norway",
    "Tunis": "Tunisia",
    "Havana": "Cuba",
    "Sydney": "Australia",
    "Boston": "America",
    "Kyoto": "Japan",
    "Bogota": "Colombia",
    "Riga": "Latvia",
    "Tokyo": "Japan",
    "Beijing": "China",
    "Mumbai": "India",
    "Paris": "France",
    "Berlin": "Germany",
    "Moscow": "Russia",
    "Cairo": "Egypt",
    "Bangkok": "Thailand",
    "Istanbul": "Turkey",
    "São Paulo": "Brazil",
}
NUM_NEUTRAL_CITIES = 24
CITIES = tuple(COUNTRY_OF_CITY)[:NUM_NEUTRAL_CITIES]

# fmt: off
OCCUPATIONS = (
    "painter", "teacher", "lawyer", "judge", "singer", "writer", "doctor", "gardener",
    "banker", "pilot",
)

BUILDINGS = (
    "library", "bridge", "school", "museum", "station", "hospital", "market", "theatre",
)
# fmt: on

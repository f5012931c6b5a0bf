"""Data: JSON, CSV rows, names, email addresses, responses of an API, queries."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import plural, with_article
from ..words.people import CITIES, FIRST, JOBS, LAST


def person(d: Draw) -> dict[str, object]:
    first, last = d.pick(FIRST), d.pick(LAST)
    return {"name": f"{first} {last}", "email": f"{first}.{last}@example.com".lower(),
            "age": d.number(18, 80)}  # fmt: skip


@family("json_record", 4.0)
def json_record(d: Draw) -> Written:
    noun = nouns.thing(d)
    fields: list[tuple[str, object]] = [
        ("id", d.number(1, 999)), ("name", f"{d.pick(nouns.ADJECTIVES)} {noun}"),
        ("price", d.number(100, 9999) / 100), ("active", d.chance(0.5)),
        ("colour", d.pick(nouns.COLOURS)), ("count", d.number(0, 50)), ("city", d.pick(CITIES)),
        ("owner", d.pick(FIRST)),
    ]  # fmt: skip
    chosen = fields[:2] + d.some(fields[2:], d.number(1, 3))
    prompt = d.phrase("Write a JSON object for {}", "Create a JSON record of {}",
                      "Generate JSON test data for {}", "JSON for {}", "Give me {} as JSON",
                      "Generate a JSON example of {}", "Make up a JSON object describing {}",
                      "json example: {}").format(with_article(noun))  # fmt: skip
    return prompt, json.dumps(dict(chosen), indent=2), noun


@family("test_data", 3.5)
def test_data(d: Draw) -> Written:
    if d.chance(0.5):
        prompt = d.phrase("Generate test data", "Create test data", "Give me test data",
                          "Generate some test data", "Make up test data", "test data",
                          "Generate sample data", "Create some sample data",
                          "Generate fake data", "I need test data")  # fmt: skip
        rows: list[dict[str, object]] = [person(d), person(d)]
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        return prompt, f"[\n{lines}\n]", None
    count, word = d.pick(((2, "two"), (3, "three"), (2, "2"), (3, "3"), (4, "four"), (1, "one")))
    prompt = d.phrase("Generate test data for {} users", "Generate {} test users",
                      "Give me {} fake users", "Create {} sample customers as CSV",
                      "Generate {} rows of CSV test data", "Make up {} people",
                      "Write a CSV file with {} people",
                      "Generate a CSV with {} rows of customers").format(word)  # fmt: skip
    people = [person(d) for _ in range(count)]
    return (
        prompt,
        "\n".join(("name,email,age", *(",".join(map(str, p.values())) for p in people))),
        None,
    )


@family("csv_rows", 3.0)
def csv_rows(d: Draw) -> Written:
    noun = nouns.thing(d)
    columns = d.some(("id", "price", "colour", "count", "city", "owner", "weight", "date"), 2)
    makers: dict[str, Callable[[], object]] = {
              "id": lambda: d.number(1, 99), "price": lambda: d.number(100, 9999) / 100,
              "colour": lambda: d.pick(nouns.COLOURS), "count": lambda: d.number(0, 99),
              "city": lambda: d.pick(CITIES), "owner": lambda: d.pick(FIRST),
              "weight": lambda: d.number(1, 90),
              "date": lambda: f"2025-{d.number(1, 12):02}-{d.number(1, 28):02}"}  # fmt: skip
    prompt = d.phrase("Write CSV rows of {p} with {a} and {b}", "CSV of {p}: {a}, {b}",
                      "Generate CSV test data about {p} with the columns {a} and {b}",
                      "Create a CSV table of {p} with {a} and {b}",
                      "Give me three {p} as CSV with {a} and {b}").format(
        p=plural(noun), a=columns[0], b=columns[1])  # fmt: skip
    kinds = d.some(nouns.ADJECTIVES, 3)
    rows = [",".join((f"{kind} {noun}", *(str(makers[c]()) for c in columns))) for kind in kinds]
    return prompt, "\n".join((",".join(("name", *columns)), *rows)), noun


@family("names", 2.0)
def names(d: Draw) -> Written:
    count, word = d.pick(((3, "three"), (5, "five"), (3, "3"), (2, "two"), (4, "four"), (5, "5")))
    what = d.pick(("names", "first names", "email addresses", "full names", "usernames"))
    prompt = d.phrase(
        "Generate {n} {what}",
        "Give me {n} {what}",
        "List {n} {what}",
        "I need {n} random {what}",
        "Make up {n} {what}",
        "{n} {what}",
        "Suggest {n} {what}",
        "Write {n} {what}",
    ).format(n=word, what=what)
    people = d.some(FIRST, count)
    lines = [
        {"names": f"{p} {last}", "full names": f"{p} {last}", "first names": p,
         "email addresses": f"{p}.{last}@example.com".lower(),
         "usernames": f"{p.lower()}{d.number(1, 99)}"}[what]
        for p, last in zip(people, d.some(LAST, count), strict=True)
    ]  # fmt: skip
    return prompt, "\n".join(lines), None


@family("api_response", 2.5)
def api_response(d: Draw) -> Written:
    if d.chance(0.35):
        prompt = d.phrase("Format API response", "Format an API response", "API response",
                          "Write an API response", "Create an API response",
                          "Show me an API response", "Generate API response",
                          "Format this API response")  # fmt: skip
        return prompt, '{\n  "status": "ok",\n  "data": {"id": 1, "name": "Alice"}\n}', None
    noun = nouns.coded(d)
    key = noun.replace(" ", "_")
    prompt = d.phrase(
        "Write an API response for {}",
        "Format an API response for {}",
        "API response with {}",
        "Show the JSON response for {}",
        "Create an API response that returns {}",
    ).format(with_article(noun))
    return prompt, (f'{{\n  "status": "ok",\n  "{key}": {{"id": {d.number(1, 999)}, '
                    f'"name": "{d.pick(nouns.ADJECTIVES)} {noun}"}}\n}}'), noun  # fmt: skip


@family("rest_endpoint", 2.5)
def rest_endpoint(d: Draw) -> Written:
    if d.chance(0.3):
        prompt = d.phrase("Document a REST API endpoint", "Document an API endpoint",
                          "Write API documentation", "Document a REST endpoint",
                          "Write documentation for a REST API", "Document an endpoint",
                          "Document my REST API", "Write REST API docs", "API docs", "Write docs for an endpoint",
                          "Document this endpoint", "Describe an API endpoint",
                          "Write the documentation of a REST API")  # fmt: skip
        noun, key = "user", None
    else:
        noun = key = nouns.coded(d)
        prompt = d.phrase("Document a REST API endpoint for {}", "Document the {} endpoint",
                          "Write API documentation for {}", "Describe the REST endpoint of {}",
                          "REST API documentation for {}", "Document the API for {}",
                          "Describe the API of {}", "API docs for {}", "Describe the {} endpoint",
                          "Write docs for the {} endpoint", "Describe a REST endpoint for {}",
                          "REST endpoint for {}, documented", "Write endpoint documentation for {}",
                          "Document the REST endpoint of {}").format(plural(noun))  # fmt: skip
    path = plural(noun).replace(" ", "-")
    return prompt, (f"GET /{path}/{{id}}\n\nReturns one {noun}.\n\nParameters:\n"
                    f"- id (integer): which {noun} to return.\n\nResponses:\n"
                    f"- 200: the {noun} as JSON.\n- 404: there is no such {noun}."), key  # fmt: skip


@family("sql_query", 4.0)
def sql_query(d: Draw) -> Written:
    noun = nouns.coded(d)
    table = plural(noun).replace(" ", "_")
    n, city, day = d.number(2, 100), d.pick(CITIES), f"2025-{d.number(1, 12):02}-01"
    what, query = d.pick((
        ("select all {p}", "SELECT * FROM {t};"), ("count the {p}", "SELECT COUNT(*) FROM {t};"),
        ("find the newest {n} {p}", "SELECT * FROM {t} ORDER BY created_at DESC LIMIT {n};"),
        ("get the {p} in {c}", "SELECT * FROM {t} WHERE city = '{c}';"),
        ("delete the {p} older than {d}", "DELETE FROM {t} WHERE created_at < '{d}';"),
        ("get the {p} with a price above {n}", "SELECT * FROM {t} WHERE price > {n};"),
        ("sort the {p} by name", "SELECT * FROM {t} ORDER BY name;"),
        ("count the {p} per city", "SELECT city, COUNT(*) FROM {t} GROUP BY city;"),
        ("find {p} without a name", "SELECT * FROM {t} WHERE name IS NULL;"),
        ("get the average price of the {p}", "SELECT AVG(price) FROM {t};"),
        ("find the most expensive of the {p}", "SELECT * FROM {t} ORDER BY price DESC LIMIT 1;"),
        ("create a table of {p}", "CREATE TABLE {t} (id INTEGER PRIMARY KEY, name TEXT NOT NULL);"),
    ))  # fmt: skip
    words = {"p": plural(noun), "t": table, "n": n, "c": city, "d": day}
    prompt = d.phrase("Write a SQL query to {}", "SQL to {}", "Write an SQL query that will {}",
                      "How do I {} in SQL?", "sql: {}", "Give me a SQL query to {}",
                      "Write SQL to {}").format(what.format(**words))  # fmt: skip
    return prompt, query.format(**words), table


@family("job_data", 1.0)
def job_data(d: Draw) -> Written:
    name, last, job, city = d.pick(FIRST), d.pick(LAST), d.filler(JOBS), d.pick(CITIES)
    prompt = d.phrase("Write a short bio of {n}, {j} from {c}",
                      "Write a bio for {n}, who works as {j} in {c}",
                      "Introduce {n}, {j} from {c}", "A bio: {n}, {j}, {c}").format(
        n=f"{name} {last}", j=with_article(job), c=city)  # fmt: skip
    return prompt, (f"{name} {last} is {with_article(job)} from {city} who likes "
                    f"{d.pick(nouns.ACTIVITIES[10:40])} and long walks."), last  # fmt: skip

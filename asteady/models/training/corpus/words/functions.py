"""Small Python functions: what they do, a name, parameters, a body, an example with its result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Snippet:
    """`task` finishes the sentence "Write a function to ..."."""

    task: str
    name: str
    params: str
    result: str
    body: tuple[str, ...]
    call: str
    value: str

    @property
    def third_person(self) -> str:
        """The task as "returns ...": the first verb gets its s."""
        verb, _, rest = self.task.partition(" ")
        ending = "es" if verb.endswith(("ch", "sh", "s")) else "s"
        return f"{verb}{ending} {rest}"

    @property
    def sentence(self) -> str:
        return self.task[0].upper() + self.task[1:] + "."

    @property
    def code(self) -> str:
        return "\n".join(
            (
                f"def {self.name}({self.params}) -> {self.result}:",
                f'    """{self.sentence}"""',
                *("    " + line for line in self.body),
            )
        )

    @property
    def argument(self) -> str:
        return self.params.split(":")[0]


_TABLE = """
sort a list|sort_list|items: list|list|return sorted(items)|sort_list([3, 1, 2])|[1, 2, 3]
reverse a string|reverse_string|text: str|str|return text[::-1]|reverse_string("abc")|"cba"
add two numbers|add|a: float, b: float|float|return a + b|add(2, 3)|5
multiply two numbers|multiply|a: float, b: float|float|return a * b|multiply(2, 3)|6
subtract two numbers|subtract|a: float, b: float|float|return a - b|subtract(5, 3)|2
compute the factorial of a number|factorial|n: int|int|if n < 2:;    return 1;return n * factorial(n - 1)|factorial(5)|120
compute the nth Fibonacci number|fibonacci|n: int|int|a, b = 0, 1;for _ in range(n):;    a, b = b, a + b;return a|fibonacci(7)|13
check whether a number is even|is_even|n: int|bool|return n % 2 == 0|is_even(4)|True
check whether a number is odd|is_odd|n: int|bool|return n % 2 == 1|is_odd(4)|False
check whether a number is prime|is_prime|n: int|bool|if n < 2:;    return False;return all(n % d for d in range(2, int(n**0.5) + 1))|is_prime(7)|True
check whether a string is a palindrome|is_palindrome|text: str|bool|return text == text[::-1]|is_palindrome("level")|True
count the words in a text|count_words|text: str|int|return len(text.split())|count_words("a b c")|3
count the vowels in a string|count_vowels|text: str|int|return sum(c in "aeiou" for c in text.lower())|count_vowels("audio")|4
find the largest number in a list|largest|numbers: list[int]|int|return max(numbers)|largest([3, 9, 2])|9
find the smallest number in a list|smallest|numbers: list[int]|int|return min(numbers)|smallest([3, 9, 2])|2
sum a list of numbers|total|numbers: list[int]|int|return sum(numbers)|total([1, 2, 3])|6
compute the average of a list|average|numbers: list[float]|float|return sum(numbers) / len(numbers)|average([2, 4])|3.0
remove duplicates from a list|unique|items: list|list|return list(dict.fromkeys(items))|unique([1, 1, 2])|[1, 2]
flatten a nested list|flatten|lists: list[list]|list|return [item for part in lists for item in part]|flatten([[1], [2, 3]])|[1, 2, 3]
merge two dictionaries|merge|a: dict, b: dict|dict|return {**a, **b}|merge({"a": 1}, {"b": 2})|{"a": 1, "b": 2}
reverse a list|reverse_list|items: list|list|return items[::-1]|reverse_list([1, 2])|[2, 1]
swap two values|swap|a: object, b: object|tuple|return b, a|swap(1, 2)|(2, 1)
capitalize every word|title_case|text: str|str|return " ".join(w.capitalize() for w in text.split())|title_case("a day")|"A Day"
convert Celsius to Fahrenheit|to_fahrenheit|celsius: float|float|return celsius * 9 / 5 + 32|to_fahrenheit(100)|212.0
convert Fahrenheit to Celsius|to_celsius|fahrenheit: float|float|return (fahrenheit - 32) * 5 / 9|to_celsius(212)|100.0
find the greatest common divisor|gcd|a: int, b: int|int|while b:;    a, b = b, a % b;return a|gcd(12, 18)|6
read a file|read_file|path: str|str|with open(path, encoding="utf-8") as file:;    return file.read()|read_file("notes.txt")|"hello"
write text to a file|write_file|path: str, text: str|None|with open(path, "w", encoding="utf-8") as file:;    file.write(text)|write_file("notes.txt", "hello")|None
count the lines in a file|count_lines|path: str|int|with open(path, encoding="utf-8") as file:;    return sum(1 for _ in file)|count_lines("notes.txt")|3
parse a JSON string|parse_json|text: str|dict|import json;return json.loads(text)|parse_json('{"a": 1}')|{"a": 1}
load a JSON file|load_json|path: str|dict|import json;with open(path, encoding="utf-8") as file:;    return json.load(file)|load_json("data.json")|{"a": 1}
search a sorted list|binary_search|items: list[int], target: int|int|low, high = 0, len(items);while low < high:;    middle = (low + high) // 2;    if items[middle] < target:;        low = middle + 1;    else:;        high = middle;return low|binary_search([1, 3, 5], 3)|1
count how often each word occurs|word_counts|text: str|dict[str, int]|counts = {};for word in text.split():;    counts[word] = counts.get(word, 0) + 1;return counts|word_counts("a b a")|{"a": 2, "b": 1}
split a list into chunks|chunks|items: list, size: int|list[list]|return [items[i : i + size] for i in range(0, len(items), size)]|chunks([1, 2, 3], 2)|[[1, 2], [3]]
find the common items of two lists|common|a: list, b: list|list|return [item for item in a if item in b]|common([1, 2], [2, 3])|[2]
check whether two words are anagrams|are_anagrams|a: str, b: str|bool|return sorted(a) == sorted(b)|are_anagrams("tea", "eat")|True
validate an email address|is_email|text: str|bool|name, at, domain = text.partition("@");return bool(name and at and "." in domain)|is_email("a@b.com")|True
generate a random password|random_password|length: int|str|import secrets;letters = "abcdefghjkmnpqrstuvwxyz23456789";return "".join(secrets.choice(letters) for _ in range(length))|len(random_password(8))|8
get the current date|today|||import datetime;return datetime.date.today()|today()|a date
measure how long a function takes|measure|fn|float|import time;start = time.perf_counter();fn();return time.perf_counter() - start|measure(work)|0.2
repeat a string|repeat|text: str, times: int|str|return text * times|repeat("ab", 2)|"abab"
find the longest word|longest_word|text: str|str|return max(text.split(), key=len)|longest_word("a bee")|"bee"
compute the power of a number|power|base: float, exponent: int|float|return base**exponent|power(2, 3)|8
compute the square of a number|square|n: float|float|return n * n|square(4)|16
compute the area of a circle|circle_area|radius: float|float|import math;return math.pi * radius**2|circle_area(1)|3.14159
compute the area of a rectangle|rectangle_area|width: float, height: float|float|return width * height|rectangle_area(2, 3)|6
compute the median of a list|median|numbers: list[float]|float|ordered = sorted(numbers);middle = len(ordered) // 2;return ordered[middle]|median([3, 1, 2])|2
check whether a list is empty|is_empty|items: list|bool|return not items|is_empty([])|True
check whether a year is a leap year|is_leap|year: int|bool|return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)|is_leap(2024)|True
invert a dictionary|invert|mapping: dict|dict|return {value: key for key, value in mapping.items()}|invert({"a": 1})|{1: "a"}
filter the even numbers|even_numbers|numbers: list[int]|list[int]|return [n for n in numbers if n % 2 == 0]|even_numbers([1, 2, 4])|[2, 4]
square every number in a list|squares|numbers: list[int]|list[int]|return [n * n for n in numbers]|squares([1, 2, 3])|[1, 4, 9]
join a list of strings with commas|join_with_commas|words: list[str]|str|return ", ".join(words)|join_with_commas(["a", "b"])|"a, b"
remove the spaces from a string|remove_spaces|text: str|str|return text.replace(" ", "")|remove_spaces("a b")|"ab"
count the characters in a string|count_characters|text: str|int|return len(text)|count_characters("abc")|3
convert a string to upper case|to_upper|text: str|str|return text.upper()|to_upper("abc")|"ABC"
convert a number to binary|to_binary|n: int|str|return format(n, "b")|to_binary(5)|"101"
sum the digits of a number|digit_sum|n: int|int|return sum(int(d) for d in str(n))|digit_sum(123)|6
list the files in a folder|list_files|folder: str|list[str]|from pathlib import Path;return [path.name for path in Path(folder).iterdir()]|list_files(".")|["notes.txt"]
clamp a number between two limits|clamp|value: float, low: float, high: float|float|return max(low, min(value, high))|clamp(9, 0, 5)|5
turn a title into a slug|slugify|title: str|str|return "-".join(title.lower().split())|slugify("My Day")|"my-day"
rotate a list by one|rotate|items: list|list|return items[1:] + items[:1]|rotate([1, 2, 3])|[2, 3, 1]
find the index of an item|find_index|items: list, target: object|int|for index, item in enumerate(items):;    if item == target:;        return index;return -1|find_index([5, 7], 7)|1
fetch a web page|fetch|url: str|str|from urllib.request import urlopen;with urlopen(url) as response:;    return response.read().decode()|fetch("https://example.com")|"<html>"
retry a call three times|retry|fn|object|for attempt in range(3):;    try:;        return fn();    except OSError:;        if attempt == 2:;            raise|retry(load)|the result
sort a list of dictionaries by a key|sort_by|rows: list[dict], key: str|list[dict]|return sorted(rows, key=lambda row: row[key])|sort_by([{"n": 2}, {"n": 1}], "n")|[{"n": 1}, {"n": 2}]
truncate a long text|truncate|text: str, limit: int|str|return text if len(text) <= limit else text[: limit - 3] + "..."|truncate("abcdefgh", 5)|"ab..."
say hello to a person|greet|name: str|str|return f"Hello, {name}!"|greet("Ann")|"Hello, Ann!"
parse a date|parse_date|text: str|date|from datetime import date;return date.fromisoformat(text)|parse_date("2024-05-01")|date(2024, 5, 1)
zip two lists into a dictionary|to_dict|keys: list, values: list|dict|return dict(zip(keys, values))|to_dict(["a"], [1])|{"a": 1}
"""

SNIPPETS: list[Snippet] = []
for _line in _TABLE.strip().splitlines():
    _task, _name, _params, _result, _body, _call, _value = _line.split("|")
    SNIPPETS.append(
        Snippet(_task, _name, _params, _result or "date", tuple(_body.split(";")), _call, _value)
    )
PURE = [s for s in SNIPPETS if s.value[0] in '"[{(0123456789TF' and "file" not in s.name]

"""Snippets: regular expressions, shell and git commands, classes, configuration, small answers
about tools."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import article, capital, plural, with_article
from ..words.people import CITIES, FIRST

REGEXES = (
    ("an email address", r"[\w.+-]+@[\w-]+\.[\w.]+"), ("a date like 2025-01-31", r"\d{4}-\d{2}-\d{2}"),
    ("a phone number", r"\+?\d[\d -]{6,14}\d"), ("a whole number", r"-?\d+"),
    ("a URL", r"https?://\S+"), ("a hex colour", r"#[0-9a-fA-F]{6}"), ("a word", r"\b\w+\b"),
    ("an IP address", r"(\d{1,3}\.){3}\d{1,3}"), ("a time like 12:30", r"\d{2}:\d{2}"),
    ("a decimal number", r"-?\d+\.\d+"), ("an empty line", r"^\s*$"), ("a hashtag", r"#\w+"),
    ("a version number", r"\d+\.\d+\.\d+"), ("a capital letter", "[A-Z]"), ("a digit", r"\d"),
    ("a postal code of five digits", r"\b\d{5}\b"), ("white space", r"\s+"),
    ("a quoted string", r'"[^"]*"'), ("an HTML tag", r"<[^>]+>"), ("a Python comment", r"#.*$"),
    ("a UUID", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), ("a vowel", "[aeiou]"),
    ("a username", r"\w{3,20}"), ("a file name", r"[\w-]+\.\w+"),
)  # fmt: skip


@family("regex", 2.0)
def regex(d: Draw) -> Written:
    ask = d.phrase("Write a regex that matches {}", "regex for {}", "Give me a regex for {}",
                   "Write a regular expression for {}", "What is the regex for {}?",
                   "How do I match {} with a regex?", "Regular expression to find {}",
                   "I need a regex to match {}", "regex that finds {}", "Find {} with a regex",
                   "Match {} with a regular expression", "Which regex matches {}?",
                   "Regular expression matching {}", "Regex: {}")  # fmt: skip
    if d.chance(0.35):
        word = d.note(nouns.invented(d))
        what, pattern = d.pick((
            (f"the word {word}", rf"\b{word}\b"), (f"lines that start with {word}", f"^{word}"),
            (f"lines that end with {word}", f"{word}$"), (f"{word} or nothing", f"({word})?"),
        ))  # fmt: skip
        return ask.format(what), pattern, word
    what, pattern = d.pick(REGEXES)
    return ask.format(what), pattern, None


SHELL = (
    ("list all files in the folder {}", "ls -la {}"), ("delete the folder {}", "rm -r {}"),
    ("count the lines in {}.txt", "wc -l {}.txt"), ("find the word {} in all files", 'grep -rn "{}" .'),
    ("create a folder called {}", "mkdir {}"), ("copy {}.txt to the home folder", "cp {}.txt ~/"),
    ("show the first ten lines of {}.log", "head -n 10 {}.log"),
    ("follow the end of {}.log", "tail -f {}.log"), ("pack the folder {}", "tar czf {0}.tar.gz {0}"),
    ("unpack {}.tar.gz", "tar xzf {}.tar.gz"), ("find all files called {}", 'find . -name "{}"'),
    ("make {}.sh executable", "chmod +x {}.sh"), ("show how big the folder {} is", "du -sh {}"),
    ("download {}.zip", "curl -O https://example.com/{}.zip"), ("sort {}.txt", "sort {}.txt"),
    ("install the package {} with pip", "pip install {}"), ("go to the folder {}", "cd {}"),
    ("run {}.py", "python {}.py"), ("stop the process {}", "pkill {}"), ("print {}", 'echo "{}"'),
    ("replace foo by {} in notes.txt", "sed -i 's/foo/{}/g' notes.txt"),
    ("create the branch {} in git", "git switch -c {}"), ("switch to the git branch {}", "git switch {}"),
    ("delete the git branch {}", "git branch -d {}"), ("merge the branch {}", "git merge {}"),
    ("commit with the message {}", 'git commit -m "{}"'), ("push the branch {}", "git push origin {}"),
    ("tag the release {}", "git tag {}"), ("show the history of {}.py", "git log --oneline {}.py"),
)  # fmt: skip


@family("shell_command", 3.0)
def shell_command(d: Draw) -> Written:
    what, command = d.pick(SHELL)
    name = d.note(nouns.invented(d)) if d.chance(0.5) else d.filler((*nouns.DOMAINS, *nouns.TECH))
    prompt = d.phrase("Write a shell command to {}", "Shell command to {}", "How do I {} in bash?",
                      "Write a bash one-liner to {}", "bash: {}", "Which command will {}?",
                      "Give me the command to {}", "Linux command to {}",
                      "How do I {} on the command line?").format(what.format(name))  # fmt: skip
    return prompt, command.format(name), name


@family("class_definition", 3.0)
def class_definition(d: Draw) -> Written:
    noun = nouns.coded(d)
    name = "".join(capital(w) for w in noun.replace("-", " ").split())
    fields = d.some((("name", "str"), ("price", "float"), ("count", "int"), ("active", "bool"),
                     ("owner", "str"), ("weight", "float"), ("colour", "str"), ("id", "int"),
                     ("size", "int"), ("created", "str")), d.number(1, 3))  # fmt: skip
    if d.chance(0.5):
        asked = f"{with_article(noun)} with {' and '.join(n for n, _ in fields)}"
    else:
        asked = with_article(noun)
        fields = [("name", "str"), ("price", "float")]
    prompt = d.phrase("Write a Python class for {}", "Write a dataclass for {}", "Python class for {}",
                      "Create a dataclass that describes {}", "Define a class for {}",
                      "Write a class that represents {}", "Model {} as a Python class",
                      "dataclass: {}").format(asked)  # fmt: skip
    body = "\n".join(f"    {n}: {t}" for n, t in fields)
    return (
        prompt,
        f'@dataclass\nclass {name}:\n    """{capital(with_article(noun))}."""\n\n{body}',
        name,
    )


@family("config_file", 2.5)
def config_file(d: Draw) -> Written:
    noun = nouns.coded(d)
    key = noun.replace(" ", "_")
    port, size, flag = d.number(1000, 9999), d.number(1, 64), d.pick(("true", "false"))
    language = d.pick(("YAML", "TOML", "INI", ".env"))
    prompt = d.phrase(
        "Write a {l} configuration for {a}",
        "{l} config for {a}",
        "Create {l} settings for {a}",
        "Give me a {l} example that configures {a}",
        "Generate a {l} file for {a}",
        "{l} settings for {a}",
        "Write a {l} config file for {a}",
        "Configure {a} in {l}",
        "How do I configure {a} in {l}?",
        "Example {l} configuration of {a}",
        "Write a {l} file that configures {a}",
        "Show me the {l} settings of {a}",
        "{l}: settings of {a}",
        "Write {l} for {a}",
        "Give me {l} that configures {a}",
        "Put the settings of {a} into {l}",
    ).format(l=language, a=with_article(noun))
    return prompt, {
        "YAML": f"{key}:\n  enabled: {flag}\n  port: {port}\n  workers: {size}",
        "TOML": f"[{key}]\nenabled = {flag}\nport = {port}\nworkers = {size}",
        "INI": f"[{key}]\nenabled = {flag}\nport = {port}\nworkers = {size}",
        ".env": f"{key.upper()}_ENABLED={flag}\n{key.upper()}_PORT={port}\n"
                       f"{key.upper()}_WORKERS={size}",
    }[language], key  # fmt: skip


EXCEPTIONS = {
    "KeyError": "The dictionary has no such key. Use get() with a default, or check with in first.",
    "IndexError": "The list is shorter than the index asks for. Check its length first.",
    "TypeError": "A value has the wrong type for this operation. Look at what is passed in.",
    "ValueError": "The type is right but the value is not. Check the input before you convert it.",
    "AttributeError": "The object has no attribute of that name. Look for a typo, or for a None.",
    "NameError": "This name was never defined. Look for a typo or a missing import.",
    "ImportError": "The module does not offer that name. Check the spelling and the version.",
    "ModuleNotFoundError": "The module is not installed here. Install it with pip in this environment.",
    "ZeroDivisionError": "The program divides by zero. Check the divisor before dividing.",
    "FileNotFoundError": "There is no file at this path. Check the name and the working directory.",
    "PermissionError": "The program may not open this file. Check its owner and its mode.",
    "RecursionError": "A function calls itself without end. Check its base case.",
    "IndentationError": "A line is indented wrongly. Use four spaces for each level.",
    "SyntaxError": "Python cannot read this line. Look for a missing bracket, quote or colon.",
    "TimeoutError": "The other side took too long. Try again, or allow more time.",
    "ConnectionError": "The connection failed. Check the address and whether the server is up.",
    "MemoryError": "There is not enough memory. Process the data in smaller pieces.",
    "UnicodeDecodeError": "The bytes are not in the expected encoding. Name the right one when opening.",
    "StopIteration": "The iterator has no more items. Use a for loop, or give next() a default.",
    "AssertionError": "A condition that must hold did not. Read the line that asserts it.",
    "OverflowError": "The number is too large for its type.",
    "RuntimeError": "Something went wrong that fits no other kind of error. Read its message.",
    "404": "The server was reached, but there is nothing at this address. Check the path.",
    "500": "Something failed inside the server. Its log will say what.",
    "403": "The server knows who you are, but you may not do this.",
    "401": "You are not logged in, or your token is wrong.",
    "segmentation fault": "The program touched memory that is not its own.",
    "merge conflict": "Two changes touch the same lines. Edit the file, keep what is right, and commit.",
}  # fmt: skip


@family("explain_error", 5.0)
def explain_error(d: Draw) -> Written:
    name = d.pick(sorted(EXCEPTIONS))
    shown = f"error {name}" if name.isdigit() else name
    detail = ""
    if name.endswith("Error") and d.chance(0.6):
        word = nouns.invented(d) if d.chance(0.5) else d.pick((*nouns.DOMAINS, *nouns.PARTS))
        detail = {"KeyError": f": '{word}'", "NameError": f": name '{word}' is not defined",
                  "ModuleNotFoundError": f": No module named '{word}'",
                  "ImportError": f": cannot import name '{word}'",
                  "AttributeError": f": 'NoneType' object has no attribute '{word}'",
                  "FileNotFoundError": f": No such file or directory: '{word}.txt'",
                  "IndexError": ": list index out of range",
                  "ZeroDivisionError": ": division by zero",
                  "ValueError": f": invalid literal for int() with base 10: '{word}'",
                  "TypeError": ": unsupported operand type(s)"}.get(name, "")  # fmt: skip
    prompt = d.phrase("Explain this error: {}", "What does {} mean?", "Explain {}", "{}",
                      "How do I fix {}?", "Why do I get {}?", "I get this error: {}", "Fix {}",
                      "What causes {}?", "Help, I see {}", "My program says {}",
                      "debug this: {}").format(shown + detail)  # fmt: skip
    return prompt, EXCEPTIONS[name], None


@family("fix_code", 1.5)
def fix_code(d: Draw) -> Written:
    name = d.pick((nouns.invented(d), d.pick(nouns.DOMAINS)))
    d.note(name)
    wrong, right, why = d.pick((
        ("if {n} = 1:", "if {n} == 1:", "Use == to compare."),
        ("for {n} in items", "for {n} in items:", "The colon was missing."),
        ("def {n}(items=[]):", "def {n}(items=None):", "A list as a default is shared by all calls."),
        ("if {n} == None:", "if {n} is None:", "Compare with None by identity."),
        ("print {n}", "print({n})", "In Python 3, print is a function."),
        ("except:", "except {n}Error:", "Name the error you expect."),
        ("{n} = open('a.txt').read()", "with open('a.txt') as file:\n    {n} = file.read()",
         "The file is closed this way."),
        ("if len({n}) == 0:", "if not {n}:", "An empty list is false."),
        ("while true: {n}()", "while True:\n    {n}()", "True has a capital letter."),
    ))  # fmt: skip
    if wrong == "except:":
        name = capital(name)
    prompt = d.phrase("Fix this code: {}", "What is wrong with: {}", "Correct this line: {}",
                      "Improve this code: {}", "Review this code: {}", "Fix this Python: {}",
                      "Why is this bad? {}").format(wrong.format(n=name))  # fmt: skip
    return prompt, f"{right.format(n=name)}\n\n{why}", None if wrong == "except:" else name


@family("name_variable", 1.5)
def name_variable(d: Draw) -> Written:
    noun = nouns.coded(d)
    name = noun.replace(" ", "_").replace("-", "_")
    kind = d.pick((("a list of {p}", plural(name)), ("the number of {p}", f"{name}_count"),
                   ("the first {s}", f"first_{name}"), ("the time when {a} was made", f"{name}_created_at"),
                   ("whether {a} exists", f"has_{name}"), ("the path of {a}", f"{name}_path"),
                   ("a function that removes {a}", f"remove_{name}"),
                   ("a function that sends {a}", f"send_{name}")))  # fmt: skip
    prompt = d.phrase("Suggest a variable name for {}", "What should I call {} in Python?",
                      "Name {} in code", "Give me a good name for {}", "variable name for {}",
                      "How would you name {}?").format(
        kind[0].format(p=plural(noun), s=noun, a=with_article(noun)))  # fmt: skip
    return prompt, kind[1], None


@family("log_line", 1.5)
def log_line(d: Draw) -> Written:
    noun = nouns.coded(d)
    level, text = d.pick((("INFO", "{} started"), ("ERROR", "{} failed: connection refused"),
                          ("WARNING", "{} is slow: 2.4 s"), ("DEBUG", "{} read 12 rows"),
                          ("INFO", "{} finished in 0.8 s")))  # fmt: skip
    prompt = d.phrase("Write a log line for the {}", "Write a {l} log message for the {}",
                      "Log message from the {}", "Generate a log entry of the {}",
                      "log line: {}").replace("{l}", level).format(noun)  # fmt: skip
    if level not in prompt:
        level, text = "INFO", "{} started"
    return (
        prompt,
        (
            f"2025-{d.number(1, 12):02}-{d.number(1, 28):02} {d.number(0, 23):02}:"
            f"{d.number(0, 59):02}:{d.number(0, 59):02} {level} {text.format(noun)}"
        ),
        noun,
    )


@family("html_snippet", 1.5)
def html_snippet(d: Draw) -> Written:
    noun = nouns.thing(d)
    what, code = d.pick((
        ("a heading that says {t}", "<h1>{t}</h1>"), ("a button labelled {t}", "<button>{t}</button>"),
        ("a link to the {t} page", '<a href="/{u}">{t}</a>'), ("a paragraph about the {t}", "<p>This is the {t}.</p>"),
        ("an image of {a} {t}", '<img src="{u}.png" alt="{a} {t}">'),
        ("a list with {t} and tea", "<ul>\n  <li>{t}</li>\n  <li>tea</li>\n</ul>"),
        ("a form that asks for the {t}", '<form>\n  <label>{t} <input name="{u}"></label>\n  <button>Send</button>\n</form>'),
    ))  # fmt: skip
    words = {"t": noun, "u": noun.replace(" ", "-"), "a": article(noun)}
    prompt = d.phrase("Write HTML for {}", "HTML: {}", "Write the HTML of {}", "How do I write {} in HTML?",
                      "Give me HTML for {}").format(what.format(**words))  # fmt: skip
    return prompt, code.format(**words), noun


@family("sql_insert", 1.5)
def sql_insert(d: Draw) -> Written:
    noun = nouns.coded(d)
    table, name = plural(noun).replace(" ", "_"), d.pick(FIRST)
    price, city = d.number(1, 99), d.pick(CITIES)
    what, query = d.pick((
        ("insert a {s} called {n}", "INSERT INTO {t} (name) VALUES ('{n}');"),
        ("set the price of the {s} {n} to {p}", "UPDATE {t} SET price = {p} WHERE name = '{n}';"),
        ("delete the {s} {n}", "DELETE FROM {t} WHERE name = '{n}';"),
        ("add a {s} in {c} that costs {p}", "INSERT INTO {t} (city, price) VALUES ('{c}', {p});"),
    ))  # fmt: skip
    words = {"s": noun, "n": name, "t": table, "p": price, "c": city}
    prompt = d.phrase("Write SQL to {}", "SQL: {}", "Write a SQL statement to {}",
                      "How do I {} in SQL?").format(what.format(**words))  # fmt: skip
    return prompt, query.format(**words), table

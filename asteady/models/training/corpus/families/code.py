"""Python: functions, their documentation and their tests."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.functions import PURE, SNIPPETS, Snippet
from ..words.grammar import capital, plural, with_article

ING = {"compute": "computing", "remove": "removing", "merge": "merging", "reverse": "reversing"}


def snippet(d: Draw, bank: list[Snippet] = SNIPPETS) -> Snippet:
    return d.pick(bank)


@family("python_function", 12.0)
def python_function(d: Draw) -> Written:
    s = snippet(d)
    prompt = d.phrase(
        "Write a Python function that {third}", "Write a Python function to {task}",
        "Write a function to {task}", "Write a function that {third}", "Python function to {task}",
        "Write Python code to {task}", "How do I {task} in Python?", "Create a function to {task}",
        "Give me a function that {third}", "{Task} in Python", "Implement a function to {task}",
        "python: {task}", "How can I {task} with Python?", "I need a function that {third}",
        "Show me how to {task} in Python", "Code to {task}", "Define a function that {third}",
        "def {name}", "Write the function {name}", "Write a Python function called {name}",
        "Generate Python code that {third}", "Write a short function to {task}",
    )  # fmt: skip
    return prompt.format(third=s.third_person, task=s.task, Task=capital(s.task),
                         name=s.name), s.code, None  # fmt: skip


@family("any_function", 2.5)
def any_function(d: Draw) -> Written:
    prompt = d.phrase("Write a Python function", "Write a function", "write a python function",
                      "Write some Python code", "Write code", "Write a simple Python function",
                      "Show me a Python function", "Write a function in Python", "Create example",
                      "Give me an example of a Python function", "Write a script",
                      "Write a short Python program", "Create an example",
                      "Show me some code")  # fmt: skip
    s = d.pick([s for s in SNIPPETS if s.name in ("greet", "average", "is_even", "unique")])
    return prompt, s.code, None


TEMPLATES = (
    ("load {a}", "load_{n}", "path: str", "str", "with open(path, encoding=\"utf-8\") as file:;    return file.read()"),
    ("save {a}", "save_{n}", "{n}: str, path: str", "None", "with open(path, \"w\", encoding=\"utf-8\") as file:;    file.write({n})"),
    ("count the {p}", "count_{ps}", "{ps}: list", "int", "return len({ps})"),
    ("sort the {p} by name", "sort_{ps}", "{ps}: list", "list", "return sorted({ps}, key=lambda {n}: {n}.name)"),
    ("find {a} by its name", "find_{n}", "{ps}: list, name: str", "object", "return next(({n} for {n} in {ps} if {n}.name == name), None)"),
    ("print every {s}", "print_{ps}", "{ps}: list", "None", "for {n} in {ps}:;    print({n})"),
    ("filter the active {p}", "active_{ps}", "{ps}: list", "list", "return [{n} for {n} in {ps} if {n}.active]"),
    ("add {a} to a list", "add_{n}", "{ps}: list, {n}: str", "list", "return [*{ps}, {n}]"),
    ("remove {a} from a list", "remove_{n}", "{ps}: list, {n}: str", "list", "return [item for item in {ps} if item != {n}]"),
    ("check whether {a} is valid", "is_valid_{n}", "{n}: str", "bool", "return bool({n}.strip())"),
    ("find the cheapest {s}", "cheapest_{n}", "{ps}: list", "object", "return min({ps}, key=lambda {n}: {n}.price)"),
    ("rename {a}", "rename_{n}", "{n}: dict, name: str", "dict", "return {{**{n}, \"name\": name}}"),
    ("group the {p} by kind", "group_{ps}", "{ps}: list", "dict", "groups = {{}};for {n} in {ps}:;    groups.setdefault({n}.kind, []).append({n});return groups"),
)  # fmt: skip


@family("function_about_thing", 7.0)
def function_about_thing(d: Draw) -> Written:
    noun = nouns.coded(d)
    name = noun.replace(" ", "_").replace("-", "_")
    words = {"a": with_article(noun), "p": plural(noun), "s": noun, "n": name,
             "ps": plural(name)}  # fmt: skip
    task, title, params, result, body = (part.format(**words) for part in d.pick(TEMPLATES))
    s = Snippet(task, title, params, result, tuple(body.split(";")), "", "")
    prompt = d.phrase("Write a Python function that {third}", "Write a function to {task}",
                      "Write a function that {third}", "Write a Python function to {task}",
                      "Python function to {task}", "I need a function that {third}",
                      "How do I {task} in Python?", "Write Python code to {task}",
                      "Implement a function to {task}")  # fmt: skip
    key = name if name in s.code else plural(name)
    return prompt.format(third=s.third_person, task=task), s.code, key


@family("unit_tests", 3.0)
def unit_tests(d: Draw) -> Written:
    if d.chance(0.5):
        s = snippet(d, PURE)
        asked = d.pick((f"a function that {s.third_person}", f"{s.name}", f"the function {s.name}"))
        name, lines = s.name, (f"    assert {s.call} == {s.value}",)
    else:
        noun = nouns.coded(d).replace(" ", "_").replace("-", "_")
        verb, value = d.pick((("create", "is not None"), ("load", "is not None"),
                              ("count", "== 0"), ("parse", "is not None"),
                              ("validate", "is True"), ("find", "is None")))  # fmt: skip
        name = f"{verb}_{noun}"
        asked = d.pick((name, f"the function {name}", f"{name}()", f"a function called {name}"))
        argument = {"count": "[]", "find": '[], "x"'}.get(verb, '"x"')
        lines = (f"    assert {name}({argument}) {value}",)
    prompt = d.phrase("Write unit tests for {}", "Write a unit test for {}", "Write a test for {}",
                      "Test {}", "Write a pytest test for {}", "Create unit tests for {}",
                      "Generate test cases for {}", "How would you test {}?",
                      "Give me a test of {}", "pytest for {}").format(asked)  # fmt: skip
    return prompt, "\n".join((f"def test_{name}():", *lines)), name


@family("any_tests", 2.0)
def any_tests(d: Draw) -> Written:
    prompt = d.phrase("Write unit tests", "Generate test cases", "Write a unit test",
                      "Write tests", "Create unit tests", "Generate unit tests",
                      "Write some tests", "Write a test case", "Generate tests",
                      "Give me an example of a unit test")  # fmt: skip
    return prompt, ("def test_add_two_numbers():\n    assert add(2, 3) == 5\n\n\n"
                    "def test_add_nothing():\n    assert add(0, 0) == 0"), None  # fmt: skip


@family("document_function", 3.0)
def document_function(d: Draw) -> Written:
    s = snippet(d)
    code = f"def {s.name}({s.params}) -> {s.result}:\n" + "\n".join("    " + b for b in s.body)
    asked = d.pick((f"the function {s.name}({s.params})", f"this function: {s.name}({s.params})",
                    f"`{s.name}({s.params})`", f"this function:\n{code}", f"{s.name}",
                    f"this code:\n{code}"))  # fmt: skip
    prompt = d.phrase("Document {}", "Write a docstring for {}", "Write documentation for {}",
                      "Create documentation for {}", "Add a docstring to {}",
                      "Describe what {} does", "What does {} do?", "Explain {}",
                      "Document the Python code of {}").format(asked)  # fmt: skip
    arguments = [p.split(":")[0].strip() for p in s.params.split(", ") if p]
    lines = [f'"""{s.sentence}', ""]
    if arguments:
        lines += ["Args:", *(f"    {a}: the {a.replace('_', ' ')} to use." for a in arguments), ""]
    lines += ["Returns:", f"    {capital(s.result)}.", '"""']
    if prompt.startswith(("Describe", "What", "Explain")):
        return prompt, f"The function {s.name} {s.third_person}.", s.name
    return prompt, "\n".join(lines), None


@family("any_documentation", 2.0)
def any_documentation(d: Draw) -> Written:
    prompt = d.phrase("Document a Python function", "Create documentation", "Write documentation",
                      "Write a docstring", "Generate documentation", "Document this function",
                      "Write documentation for a function", "Write docs", "Document my code",
                      "Write a Python docstring", "Document a function")  # fmt: skip
    return prompt, ('"""Return the average of a list of numbers.\n\nArgs:\n    numbers: the '
                    "numbers; at least one.\n\nReturns:\n    Their sum divided by their count."
                    '\n\nRaises:\n    ValueError: the list is empty.\n"""'), None  # fmt: skip


HELLO = {
    "Python": 'print("Hello, world!")', "JavaScript": 'console.log("Hello, world!");',
    "C": '#include <stdio.h>\n\nint main(void) {\n    printf("Hello, world!\\n");\n    return 0;\n}',
    "Java": 'public class Hello {\n    public static void main(String[] args) {\n        System.out.println("Hello, world!");\n    }\n}',
    "Go": 'package main\n\nimport "fmt"\n\nfunc main() {\n    fmt.Println("Hello, world!")\n}',
    "Rust": 'fn main() {\n    println!("Hello, world!");\n}', "Ruby": 'puts "Hello, world!"',
    "bash": 'echo "Hello, world!"', "C++": '#include <iostream>\n\nint main() {\n    std::cout << "Hello, world!\\n";\n}',
    "PHP": '<?php\necho "Hello, world!";', "HTML": "<h1>Hello, world!</h1>",
    "SQL": "SELECT 'Hello, world!';", "TypeScript": 'console.log("Hello, world!");',
    "Lua": 'print("Hello, world!")', "Kotlin": 'fun main() {\n    println("Hello, world!")\n}',
}  # fmt: skip


@family("hello_world", 2.5)
def hello_world(d: Draw) -> Written:
    if d.chance(0.5):
        prompt = d.phrase("Write a hello world program", "hello world program", "Print hello world",
                          "Write hello world", "Show me hello world", "Code a hello world program",
                          "Write a program that prints hello world")  # fmt: skip
        return prompt, HELLO["Python"], None
    language = d.pick(sorted(HELLO))
    prompt = d.phrase("Write a hello world program in {}", "Hello world in {}",
                      "How do I print hello world in {}?", "{} hello world",
                      "Write hello world in {}", "Show me hello world in {}")  # fmt: skip
    return prompt.format(language), HELLO[language], None

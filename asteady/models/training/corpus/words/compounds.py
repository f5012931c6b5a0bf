"""Two-word terms and what they mean: heads such as "queue", and modifiers such as "payment"."""

from __future__ import annotations

from .grammar import plural

# "{a}" is the capitalised term with its article, "{what}" what the modifier stands for.
HEADS: dict[str, str] = {
    "queue": "{a} is a line in which {what} wait to be handled in order.",
    "cache": "{a} is a fast store that keeps {what} which were needed before.",
    "service": "{a} is a program that looks after {what} for other programs.",
    "handler": "{a} is the piece of code that runs when {what} come in.",
    "parser": "{a} is a program that reads {what} and finds their structure.",
    "validator": "{a} is a check that refuses {what} with missing or wrong values.",
    "index": "{a} is a sorted list that makes {what} quick to find.",
    "table": "{a} is a set of rows and columns that holds {what}.",
    "dashboard": "{a} is a page that shows the state of {what} at a glance.",
    "scheduler": "{a} is a program that decides when {what} are dealt with.",
    "gateway": "{a} is the door through which {what} pass from outside.",
    "registry": "{a} is a list in which {what} are entered under their names.",
    "worker": "{a} is a process that takes {what} from a queue and handles them.",
    "importer": "{a} is a tool that brings {what} in from another system.",
    "exporter": "{a} is a tool that writes {what} to a file or to another system.",
    "filter": "{a} is a rule that lets only some {what} through.",
    "logger": "{a} is a component that writes down what happens to {what}.",
    "monitor": "{a} is a program that watches {what} and raises an alarm.",
    "archive": "{a} is a place where old {what} are kept.",
    "counter": "{a} is a number that says how many {what} there have been.",
    "store": "{a} is the place where {what} are kept.",
    "template": "{a} is a pattern from which new {what} are made.",
    "pipeline": "{a} is a series of steps through which {what} pass.",
    "schema": "{a} is a description of the fields that {what} must have.",
    "editor": "{a} is a tool with which people change {what}.",
}
MODIFIERS: dict[str, str] = {
    word: plural(word)
    for word in """payment user order invoice product customer account session report message
    notification image video document ticket event metric token subscription refund coupon review
    comment rating sensor device vehicle patient student course lesson recipe book movie song photo
    contact address team project task expense contract vendor delivery route flight room claim
    audit feature release build test worker template survey exam card letter parcel booking
    appointment prescription lead campaign banner font icon color player score match quest level
    robot drone meter bus train parking-permit donation petition badge reward transfer loan
    question answer query job request response error warning alert password""".split()
}
MODIFIERS = {k.replace("-", " "): v.replace("-", " ") for k, v in MODIFIERS.items()}

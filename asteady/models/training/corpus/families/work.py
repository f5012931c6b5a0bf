"""Texts of the working day: commit messages, errors, subject lines, emails, release notes."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import capital, with_article
from ..words.people import FIRST, JOBS

# imperative, gerund-free; {} is the thing.
CHANGES = (
    ("fix a crash in the {}", "Fix crash in the {}", "It crashed when the input was empty."),
    ("fix a bug in the {}", "Fix wrong result in the {}", "The last item was left out."),
    ("add tests for the {}", "Add tests for the {}", "They cover empty and very long input."),
    ("speed up the {}", "Speed up the {}", "The result is now kept instead of computed twice."),
    ("rename the {}", "Rename the {}", "The new name says what it does."),
    ("remove the {}", "Remove the {}", "Nothing has used it since the last release."),
    ("add the {}", "Add the {}", "It was asked for by several users."),
    ("update the {}", "Update the {}", "The old version no longer worked."),
    ("refactor the {}", "Refactor the {}", "The behaviour stays the same."),
    ("document the {}", "Document the {}", "The page now has an example."),
    ("fix a typo in the {}", "Fix typo in the {}", ""),
    ("fix a memory leak in the {}", "Fix memory leak in the {}", "Old entries were never freed."),
    ("handle errors in the {}", "Handle errors in the {}", "A failure is now reported once."),
    ("improve the {}", "Improve the {}", "It now answers faster and says more."),
    ("move the {}", "Move the {} to a file of its own", "It had grown too long."),
    ("log in the {}", "Add logging to the {}", "Failures were hard to find without it."),
)  # fmt: skip


@family("commit_message", 5.0)
def commit_message(d: Draw) -> Written:
    what, title, body = d.pick(CHANGES)
    noun = nouns.coded(d)
    prompt = d.phrase(
        "Write a commit message for a change that will {}",
        "Write a commit message: {}",
        "commit message: {}",
        "Write a git commit message: {}",
        "Write a commit message to {}",
        "Give me a commit message for this change: {}",
        "Commit message for: {}",
        "Suggest a commit message: {}",
        "I need a commit message. The change: {}",
        "git commit -m for {}",
        "Create a commit message that says: {}",
    ).format(what.format(noun))
    answer = title.format(noun)
    if body and d.chance(0.6):
        answer += "\n\n" + body
    return prompt, answer, noun


@family("commit_about", 2.0)
def commit_about(d: Draw) -> Written:
    noun = nouns.coded(d)
    kind, verb = d.pick(
        (
            ("bug fix", "Fix"),
            ("new feature", "Add"),
            ("refactoring", "Simplify"),
            ("documentation change", "Document"),
            ("fix", "Fix"),
            ("performance improvement", "Speed up"),
            ("removal", "Remove"),
        )
    )
    prompt = d.phrase(
        "Write a commit message for a {kind} in the {noun}",
        "commit message for a {kind} in the {noun}",
        "Write a commit message about a {kind} in the {noun}",
        "Suggest a commit message for a {kind} of the {noun}",
        "Give me a commit message ({kind}, {noun})",
    ).format(kind=kind, noun=noun)
    return prompt, f"{verb} the {noun}", noun


@family("any_commit", 0.8)
def any_commit(d: Draw) -> Written:
    prompt = d.phrase("Write a commit message", "Generate a commit message", "commit message",
                      "Write a git commit message", "Suggest a commit message",
                      "Give me a good commit message", "Write commit message")  # fmt: skip
    return prompt, d.pick(("Fix crash when the configuration file is empty",
                           "Add tests for the session timeout")), None  # fmt: skip


ERRORS = (
    ("{} not found", "The {} was not found. Check the name and try again."),
    ("missing {}", "No {} was given. Please provide one and try again."),
    ("invalid {}", "This {} is not valid. Please check it and try again."),
    ("{} too large", "The {} is too large. Please choose one below 10 MB."),
    ("{} already exists", "A {} with this name already exists. Choose another name."),
    ("expired {}", "Your {} has expired. Please request a new one."),
    ("no permission for the {}", "You do not have permission to open this {}. Ask its owner."),
    ("{} timeout", "The {} took too long to answer. Please try again in a moment."),
    ("broken {}", "Something went wrong with the {}. We have been told and are looking into it."),
    ("empty {}", "The {} is empty. Add something and try again."),
    ("locked {}", "This {} is locked. Try again when nobody else is using it."),
    ("failed {}", "The {} could not be completed. Nothing was changed; please try again."),
)  # fmt: skip


@family("error_message", 4.0)
def error_message(d: Draw) -> Written:
    what, answer = d.pick(ERRORS)
    noun = nouns.coded(d)
    what = what.format(noun)
    prompt = d.phrase("Write an error message for {an}", "Error message: {what}",
                      "Generate an error message for {an}", "Write a friendly error message: {what}",
                      "Create an error message for {an}", "What should the error say: {what}?",
                      "Write a user-facing error message for {an}", "error text for {what}",
                      "Give me an error message when there is: {what}",
                      "Phrase this error for a user: {what}").format(
        what=what, an=what if what.startswith("no ") else with_article(what))  # fmt: skip
    text = answer.format(noun)
    if text.startswith("A "):
        text = capital(with_article(noun)) + text[2 + len(noun) :]
    return prompt, text, noun


@family("any_error", 2.0)
def any_error(d: Draw) -> Written:
    prompt = d.phrase("Generate error message", "Write an error message", "error message",
                      "Generate an error message", "Create an error message",
                      "Give me an error message", "Create error message")  # fmt: skip
    return prompt, d.pick((
        "Something went wrong while saving your changes. Nothing was lost; please try again.",
        "The file could not be opened. Check that it exists and that you may read it.",
    )), None  # fmt: skip


OCCASIONS = """Black Friday sale|Cyber Monday sale|summer sale|winter sale|spring sale|product launch
new feature|newsletter|webinar|conference|workshop|holiday party|team lunch|job interview
price change|maintenance window|password reset|welcome message|birthday party|book club
charity run|open house|annual report|customer survey|free trial|flash sale|clearance sale
early access|beta test|loyalty program|gift card offer|student discount|back to school sale
Christmas sale|New Year sale|Easter sale|Mother's Day sale|anniversary sale|grand opening
office move|security update|software update|invoice reminder|order confirmation|shipping delay
event reminder|meeting reminder|training day|quarterly review|fundraiser|photo contest|concert
hackathon|product recall|garden party|art exhibition|wine tasting|yoga class|pottery class
coffee tasting|bike repair day|science fair|school play|city marathon|farmers market
weekend getaway""".replace("\n", "|").split("|")


def occasion(d: Draw) -> str:
    if d.chance(0.45):
        return d.filler(OCCASIONS)
    return d.note(f"{nouns.invented(d) if d.chance(0.15) else nouns.compound(d)} {d.pick(('sale', 'launch', 'workshop', 'event', 'offer', 'update', 'meeting', 'party', 'survey'))}")  # fmt: skip


@family("subject_line", 4.5)
def subject_line(d: Draw) -> Written:
    what = occasion(d)
    prompt = d.phrase("Write a subject line for {}", "Write a subject line for a {}",
                      "Subject line for {}", "Write an email subject line for a {}",
                      "Give me a subject line for the {}", "Suggest a subject line: {}",
                      "Create a catchy subject line for a {}", "email subject: {}",
                      "I need a subject line about the {}",
                      "Generate a subject line for our {}").format(what)  # fmt: skip
    title = " ".join(capital(w) for w in what.split())
    if "sale" in what.lower() or "offer" in what:
        answer = d.pick((f"{title}: Save Up to {d.number(2, 7)}0% Today Only",
                         f"Our {title} Starts Now: {d.number(2, 7)}0% Off Everything",
                         f"The {title} Is Here. Don't Miss It!",
                         f"Last Chance: Our {title} Ends Tonight"))  # fmt: skip
    else:
        answer = d.pick((f"{title}: What You Need to Know", f"You're Invited: {title}",
                         f"{title}: Save the Date", f"Everything About Our {title}",
                         f"Good News About the {title}"))  # fmt: skip
    return prompt, answer, what


@family("email_body", 5.0)
def email_body(d: Draw) -> Written:
    what = occasion(d)
    prompt = d.phrase("Write email body for {}", "Write an email about the {}",
                      "Write a short email about our {}", "Draft an email for a {}",
                      "Write the body of an email about the {}", "Email about {}",
                      "Write an email announcing our {}", "Compose an email for the {}",
                      "write email for {}", "Write an email body for a {}").format(what)  # fmt: skip
    if "sale" in what.lower() or "offer" in what:
        middle = d.pick((
            f"Our {what} is here. From today until {d.pick(DAYS)} you save {d.number(2, 7)}0% on "
            "everything in the shop.",
            f"The {what} starts today, with up to {d.number(2, 7)}0% off our most loved products.",
        ))  # fmt: skip
        end = d.pick(("Be quick: when it is gone, it is gone.", "No code needed. Enjoy!",
                      "See you in the shop!"))  # fmt: skip
    else:
        middle = d.pick((
            f"I am writing to tell you about the {what}. It takes place on {d.pick(DAYS)} at "
            f"{d.number(9, 18)}:00.",
            f"The {what} is coming up on {d.pick(DAYS)}. You will find all the details below.",
            f"We are happy to announce our {what}. It starts on {d.pick(DAYS)}.",
        ))  # fmt: skip
        end = d.pick(
            (
                "Please let me know if you have any questions.",
                "I look forward to seeing you there.",
                "Thank you for your time.",
            )
        )
    sender = d.pick(("The Team", d.pick(FIRST)))
    return prompt, f"Hello,\n\n{middle}\n\n{end}\n\nBest regards,\n{sender}", what


DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


DEEDS = """moved bought lost found repaired sold cleaned showed painted opened closed finished
started cancelled delivered announced praised tested missed borrowed returned broke built ordered
forgot presented replaced locked drew carried hid described changed deleted chose released praised
visited painted photographed wrapped weighed burned watched brought""".split()
BEFORE = ("After a long talk with everybody on the team,", "Although it cost more than planned,",
          "On a rainy {d} in the {p},", "With a few old tools and a lot of patience,",
          "Since nobody had used it for years,", "While looking for something else in the {p},",
          "In spite of many doubts and a very small budget,", "At the end of a long meeting on {d},",
          "According to the local newspaper,", "Last {d}, when the {p} was nearly empty,",
          "To everybody's surprise,", "As had been planned for months,", "", "", "")  # fmt: skip
AFTER = ("on {d}, in front of everybody in the {p}", "because visitors were expected on {d}",
         "and went home to the {p} without a word", "although it was raining hard that {d}",
         "so that the {p} could open again on {d}", "which nobody had believed possible",
         "before anybody else in the {p} noticed it", "after waiting for more than three weeks",
         "and everybody in the {p} was glad about it", "with great care", "")  # fmt: skip


@family("summary", 5.0)
def summary(d: Draw) -> Written:
    who = d.pick((d.pick(FIRST), d.pick(FIRST), f"the {d.pick(JOBS)}", "the company", "our team"))
    noun, deed = nouns.thing(d), d.pick(DEEDS)
    core = f"{who} {deed} the {noun}"
    words = {"d": d.pick(DAYS), "p": d.pick(nouns.PLACES)}
    text = f"{d.pick(BEFORE)} {core} {d.pick(AFTER)}".format(**words).strip()
    text = capital(text) + d.pick((".", ".", ""))
    prompt = d.phrase(
        "Summarize this sentence: {}",
        "Summarize: {}",
        "Summarise this: {}",
        "Make this shorter: {}",
        "tl;dr: {}",
        "Shorten this sentence: {}",
        "Summarize the following text: {}",
        "Give me a summary: {}",
        "Sum this up in a few words: {}",
        "In short: {}",
        "summarize {}",
        "Write a summary of this sentence: {}",
    ).format(text)
    return prompt, capital(core) + ".", noun


@family("release_note", 3.0)
def release_note(d: Draw) -> Written:
    noun = nouns.coded(d)
    what, note = d.pick((
        ("a new {}", "Added: a new {}."), ("a faster {}", "Changed: the {} is now twice as fast."),
        ("a fix in the {}", "Fixed: the {} no longer fails on empty input."),
        ("the removal of the {}", "Removed: the {}, which nobody used."),
        ("a redesigned {}", "Changed: the {} has a new design."),
        ("dark mode in the {}", "Added: dark mode in the {}."),
    ))  # fmt: skip
    prompt = d.phrase("Write a release note about {}", "Write release notes for {}",
                      "Release note: {}", "Write a changelog entry about {}",
                      "changelog entry for {}", "Announce {} in a release note",
                      "Draft a release note for {}").format(what.format(noun))  # fmt: skip
    version = f"{d.number(0, 9)}.{d.number(0, 20)}.{d.number(0, 9)}"
    if d.chance(0.4):
        return f"{prompt} (version {version})", f"Version {version}\n- {note.format(noun)}", noun
    return prompt, f"- {note.format(noun)}", noun


@family("product_description", 3.0)
def product_description(d: Draw) -> Written:
    noun = nouns.thing(d)
    if d.chance(0.5):
        name = nouns.product(d)
        about = f"{with_article(noun)} called {name}"
        start = f"Meet {name}, the {noun} that"
    else:
        about, start = with_article(noun), f"This {noun}"
    prompt = d.phrase("Write a product description for {}", "Product description for {}",
                      "Describe {} for an online shop", "Write a short product description of {}",
                      "Write an advertisement for {}", "Advertise {}", "Sell me {}",
                      "Write marketing copy for {}", "Describe {} for my shop", "Write an ad for {}",
                      "Write a text for my web shop about {}", "Describe {} for our catalogue",
                      "Advertisement for {}", "Ad copy for {}", "Promote {}", "Pitch {} to me",
                      "Write shop copy for {}", "Describe the product: {}", "Shop text: {}",
                      "Write sales copy for {}", "Write a text that sells {}").format(about)  # fmt: skip
    return prompt, d.pick((
        f"{start} makes every day a little easier. Light, strong and made to last.",
        f"{start} does one thing and does it well. You will wonder how you lived without it.",
        f"{start} brings a little joy into your home. Simple to use, easy to love.",
        f"{start} is built with care, tested for years and loved by everyone who tries it.",
    )), noun  # fmt: skip


@family("list_ideas", 3.0)
def list_ideas(d: Draw) -> Written:
    about = nouns.topic(d)
    prompt = d.phrase("Give me three ideas about {}", "List three ideas for {}",
                      "Suggest three things to do with {}", "Give me some ideas for {}",
                      "Brainstorm ideas about {}", "What could I do with {}?",
                      "Ideas for {}", "Suggest a few projects about {}").format(about)  # fmt: skip
    ideas = d.some((
        "Write a short story about {}", "Draw a picture of {}", "Take a photo of {} every day",
        "Read a book about {}", "Start a small club for {}", "Teach a friend about {}",
        "Make a list of what you like about {}", "Plan a weekend around {}",
        "Keep a diary about {}", "Build a small website about {}", "Make a quiz about {}",
        "Give a short talk about {}",
    ), 3)  # fmt: skip
    return prompt, "\n".join(f"{i}. {idea.format(about)}" for i, idea in enumerate(ideas, 1)), about


@family("improvements", 2.0)
def improvements(d: Draw) -> Written:
    noun = nouns.thing(d)
    if d.chance(0.4):
        prompt = d.phrase("Suggest improvements", "Suggest some improvements",
                          "What should I improve?", "How can I improve my code?",
                          "Give me suggestions", "Suggest improvements to this code")  # fmt: skip
        return prompt, ("1. Give every function one job and a clear name.\n"
                        "2. Add a test for each bug you fix.\n"
                        "3. Measure before you make anything faster."), None  # fmt: skip
    prompt = d.phrase("Suggest improvements for the {}", "How can I improve my {}?",
                      "Suggest three improvements to the {}", "What would make the {} better?",
                      "Improve the {}", "Give me suggestions for the {}").format(noun)  # fmt: skip
    tips = d.some(
        (
            f"Make the {noun} simpler.",
            "Ask the people who use it.",
            "Write it down.",
            f"Test the {noun} with somebody new.",
            "Remove what nobody needs.",
            f"Give the {noun} a clear name.",
            "Measure first, then change.",
        ),
        3,
    )
    return prompt, "\n".join(f"{i}. {tip}" for i, tip in enumerate(tips, 1)), None


@family("review", 3.0)
def review(d: Draw) -> Written:
    kind = d.number(0, 3)
    if kind == 0:
        return d.phrase("Review this pull request", "Review my pull request", "Review this PR",
                        "Please review this pull request", "Review my code", "Code review",
                        "Review this change"), (
            "The change is small and easy to follow. Two requests before it is merged: add a test "
            "for the empty case, and say in the description why it is needed."), None  # fmt: skip
    if kind == 1:
        return d.phrase("Optimize this code", "Optimize code", "Optimize my code",
                        "Make this code faster", "Make my code faster", "Optimise this code",
                        "Speed up this code", "How do I make my code faster?"), (
            "Measure first to find the slow part. Then do less there: move work out of the loop, "
            "use a set for look-ups, and cache results that do not change."), None  # fmt: skip
    if kind == 2:
        return d.phrase("Explain this error", "Explain this error message", "What is this error?",
                        "Why do I get this error?", "What does this error mean?",
                        "Help me with this error", "Fix this error"), (
            "Please paste the error. As a rule, the last line says what went wrong, and the line "
            "above it says where."), None  # fmt: skip
    return d.phrase("Create validation response", "Create a validation response",
                    "Write a validation response", "Generate validation response",
                    "Generate a validation error response"), (
        '{\n  "valid": false,\n  "errors": [\n    {"field": "email", "message": "This is not an '
        'email address."}\n  ]\n}'), None  # fmt: skip

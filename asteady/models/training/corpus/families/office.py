"""More of the working day: agendas, status updates, bug reports, notes, invitations, replies."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words import nouns
from ..words.grammar import with_article
from ..words.people import CITIES, FIRST, JOBS
from .work import DAYS, OCCASIONS, occasion


def numbered(lines: list[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def bulleted(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


@family("todo_list", 2.5)
def todo_list(d: Draw) -> Written:
    about = occasion(d) if d.chance(0.5) else nouns.thing(d)
    prompt = d.phrase("Write a to-do list for the {}", "to-do list for the {}", "todo list: {}",
                      "Make a checklist for the {}", "Create a to-do list for our {}",
                      "What do I have to do for the {}?", "List the tasks for the {}",
                      "Plan the {}").format(about)  # fmt: skip
    tasks = d.some(
        [
            f"Set a date for the {about}",
            "Write down what it costs",
            "Ask who can help",
            f"Tell everybody about the {about}",
            "Check the list once more",
            f"Find a place for the {about}",
            "Buy what is missing",
            f"Choose who looks after the {about}",
            "Say thank you afterwards",
        ],
        4,
    )
    return prompt, bulleted(tasks), None


@family("agenda", 1.5)
def agenda(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase("Write a meeting agenda about the {}", "agenda for a meeting on the {}",
                      "Create an agenda for the {} meeting", "Meeting agenda: {}",
                      "Draft an agenda to discuss the {}").format(about)  # fmt: skip
    return prompt, numbered([f"Where the {about} stands (5 minutes)",
                             d.pick(("What went well", "What we learned", "Open questions"))
                             + f" ({d.pick((10, 15, 20))} minutes)",
                             f"Next steps for the {about} (10 minutes)",
                             "Who does what until when (5 minutes)"]), about  # fmt: skip


@family("status_update", 2.0)
def status_update(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase("Write a status update about the {}", "status update: {}",
                      "Write a short update for the team about the {}", "Report on the {}",
                      "Give a status report on the {}", "How do I tell my team that the {} is late?",
                      "Write a standup note about the {}").format(about)  # fmt: skip
    if "late" in prompt:
        return (
            prompt,
            (
                f"The {about} needs a few more days than planned. It will be ready on "
                f"{d.pick(DAYS)}. I will tell you at once if that changes."
            ),
            about,
        )
    return prompt, d.pick((
        f"The {about} is on track. Tests pass, and the review is planned for {d.pick(DAYS)}.",
        f"The {about} is nearly done. One open question is left; the rest is tested.",
        f"Work on the {about} has started. A first version will be ready on {d.pick(DAYS)}.",
    )), about  # fmt: skip


@family("bug_report", 2.5)
def bug_report(d: Draw) -> Written:
    about = nouns.coded(d)
    what, expected = d.pick((
        ("crashes when the input is empty", "an empty result"),
        ("shows the wrong date", "today's date"), ("does not open", "it opens"),
        ("is very slow with many rows", "an answer within a second"),
        ("forgets its settings", "the settings are kept"),
        ("shows every entry twice", "every entry once"),
    ))  # fmt: skip
    prompt = d.phrase(
        "Write a bug report: the {n} {w}",
        "bug report: {n} {w}",
        "Report a bug: the {n} {w}",
        "Write an issue about the {n}, which {w}",
        "File a bug: {n} {w}",
        "Create a bug report because the {n} {w}",
    ).format(n=about, w=what)
    return prompt, (f"Title: The {about} {what}\n\nSteps:\n1. Open the {about}.\n2. Use it as "
                    f"usual.\n\nExpected: {expected}.\nActual: it {what}."), about  # fmt: skip


@family("thank_you_note", 2.0)
def thank_you_note(d: Draw) -> Written:
    who, gift = d.pick(FIRST), nouns.thing(d)
    prompt = d.phrase("Write a thank-you note to {w} for the {g}", "thank you note to {w} for the {g}",
                      "Thank {w} for the {g}", "Write a short note thanking {w} for the {g}",
                      "How do I thank {w} for the {g}?").format(w=who, g=gift)  # fmt: skip
    return prompt, f"Dear {who},\n\nthank you so much for the {gift}! " + d.pick((
        "It made my day.", "I think of you whenever I see it.", "It was just what I needed.",
        "You chose so well.")) + "\n\nWarm regards", gift  # fmt: skip


@family("out_of_office", 1.0)
def out_of_office(d: Draw) -> Written:
    day, who = d.filler(DAYS), d.pick(FIRST)
    prompt = d.phrase("Write an out-of-office message until {}", "out of office reply until {}",
                      "Write an automatic reply: I am back on {}", "Out of office, back {}",
                      "Write a vacation message; I return on {}", "Out of office until {}",
                      "Away message until {}", "Write an auto-reply: away until {}",
                      "Vacation reply, back on {}", "I am away until {}: write a reply",
                      "Out of office note: I return on {}", "Automatic reply, back {}",
                      "I am back on {}; write an out-of-office message",
                      "Write an out-of-office note, back on {}").format(day)  # fmt: skip
    return prompt, (f"Thank you for your message. I am out of the office and will be back on {day}. "
                    f"In urgent cases please write to {who}."), day  # fmt: skip


@family("invitation", 2.0)
def invitation(d: Draw) -> Written:
    what, day = d.filler(OCCASIONS) if d.chance(0.5) else occasion(d), d.pick(DAYS)
    place = d.pick(nouns.PLACES)
    prompt = d.phrase(
        "Write an invitation to the {o} on {d}",
        "invitation to the {o} on {d}",
        "Invite people to our {o} on {d}",
        "Invite my friends to the {o} on {d}",
        "Write a short invitation for a {o} ({d})",
        "Invite everybody to the {o} on {d}",
        "Invitation: {o}, {d}",
        "Write an invitation for our {o}, {d}",
    ).format(o=what, d=day)
    return prompt, (f"You are invited to our {what} on {day} at {d.number(10, 20)}:00 in the {place}. "
                    + d.pick(("We look forward to seeing you!", "Please tell us if you can come.",
                              "Bring a friend!"))), what  # fmt: skip


@family("user_story", 1.5)
def user_story(d: Draw) -> Written:
    about, role = nouns.coded(d), d.filler(JOBS)
    prompt = d.phrase(
        "Write a user story about the {n} for {r}",
        "user story: {r}, {n}",
        "Write a user story in which {r} uses the {n}",
        "User story for {r} and the {n}",
    ).format(n=about, r=with_article(role))
    why = d.pick(("I save time", "I do not lose my work", "I can see what changed",
                  "my team knows what to do next", "I make fewer mistakes"))  # fmt: skip
    verb = d.pick(("open", "search", "share", "export", "change", "check"))
    return prompt, f"As {with_article(role)}, I want to {verb} the {about}, so that {why}.", about


@family("social_post", 2.5)
def social_post(d: Draw) -> Written:
    about = nouns.thing(d)
    prompt = d.phrase("Write a tweet about {}", "tweet about {}", "Write a social media post about {}",
                      "Post about {}", "Write a short post announcing {}", "Write a caption for {}",
                      "Announce {} on social media").format(
        d.pick(("our new " + about, "my " + about, with_article(about))))  # fmt: skip
    tag = "#" + about.replace(" ", "").replace("-", "")
    return prompt, d.pick((
        f"Say hello to our new {about}! We cannot wait to hear what you think. {tag}",
        f"Big day: the {about} is finally here. {tag}",
        f"Some days all you need is {with_article(about)}. {tag}",
        f"Who else loves a good {about}? {tag}",
    )), about  # fmt: skip


@family("apology", 2.0)
def apology(d: Draw) -> Written:
    about = d.pick(
        (
            "late delivery",
            "long wait",
            "wrong invoice",
            "broken link",
            "missed call",
            "late reply",
            "outage",
            "mistake",
            "double charge",
            "lost parcel",
        )
    )
    if d.chance(0.5):
        about = f"{d.pick(('broken', 'missing', 'late', 'damaged', 'wrong'))} {nouns.thing(d)}"
    else:
        d.note(about)
    prompt = d.phrase("Write an apology for the {}", "Apologize for the {}", "apology for a {}",
                      "Write a short apology to a customer about the {}", "Say sorry for the {}",
                      "How do I apologize for the {}?",
                      "Write a reply to a complaint about the {}").format(about)  # fmt: skip
    return prompt, f"We are sorry for the {about}. " + d.pick((
        "This should not have happened, and we are putting it right today.",
        "We have found the cause, and it will not happen again.",
        "Thank you for your patience and for telling us.")), about  # fmt: skip


@family("faq", 1.5)
def faq(d: Draw) -> Written:
    about = nouns.coded(d)
    prompt = d.phrase(
        "Write an FAQ entry about the {}",
        "FAQ: {}",
        "Write a question and answer about the {}",
        "Create an FAQ for the {}",
        "Write a help text for the {}",
    ).format(about)
    question, answer = d.pick((
        ("How do I change the {n}?", "Open the settings, choose the {n}, and press Save."),
        ("Where do I find the {n}?", "The {n} is in the menu, below your name."),
        ("Can I delete the {n}?", "Yes. Open the {n} and choose Delete. This cannot be undone."),
        ("Is the {n} free?", "Yes, the {n} is part of every plan."),
    ))  # fmt: skip
    return prompt, f"Q: {question.format(n=about)}\nA: {answer.format(n=about)}", about


@family("product_review", 2.0)
def product_review(d: Draw) -> Written:
    about = nouns.thing(d)
    mood = d.pick(("good", "bad", "positive", "negative", "five-star", "one-star", "friendly"))
    prompt = d.phrase("Write a {m} review of {a}", "{m} review of {a}", "Write a {m} review for {a}",
                      "Give {a} a {m} review").format(m=mood, a=with_article(about))  # fmt: skip
    if mood in ("bad", "negative", "one-star"):
        return prompt, d.pick((
            f"The {about} looked good, but it broke after {d.number(2, 9)} days. I sent it back.",
            f"I expected more. The {about} is loud, heavy and hard to use.",
        )), about  # fmt: skip
    return prompt, d.pick((
        f"I love this {about}. It does what it says, and it looks good too.",
        f"Best {about} I have ever had. It arrived on time and works like new after months.",
        f"A wonderful {about}. I have already bought a second one for my sister.",
    )), about  # fmt: skip


@family("pull_request", 1.5)
def pull_request(d: Draw) -> Written:
    about = nouns.coded(d)
    verb, done = d.pick((("fixes", "Fix"), ("adds", "Add"), ("removes", "Remove"),
                         ("speeds up", "Speed up"), ("documents", "Document")))  # fmt: skip
    prompt = d.phrase(
        "Write a pull request description that {v} the {n}",
        "PR description: {v} the {n}",
        "Describe a pull request which {v} the {n}",
        "Pull request text for a change that {v} the {n}",
    ).format(v=verb, n=about)
    return (
        prompt,
        (
            f"{done} the {about}\n\nWhat: this change {verb} the {about}.\n"
            "Why: users have asked for it.\nTests: added for the new behaviour."
        ),
        about,
    )


@family("reply", 2.0)
def reply(d: Draw) -> Written:
    day, what = d.pick(DAYS), d.note(occasion(d))
    yes = d.chance(0.5)
    prompt = d.phrase("Write a reply that {v} the invitation to the {o} on {d}",
                      "{V} the invitation to the {o} on {d}",
                      "Answer an invitation to the {o} on {d}: {w}",
                      "Reply to the invitation for the {o} ({d}) with {w}").format(
        v="accepts" if yes else "declines", V="Accept" if yes else "Politely decline",
        w="yes" if yes else "no", o=what, d=day)  # fmt: skip
    if yes:
        return (
            prompt,
            f"Thank you for the invitation! I will gladly come to the {what} on {day}.",
            what,
        )
    return prompt, (f"Thank you for the invitation to the {what}. Sadly I cannot come on {day}, "
                    "but I wish you a wonderful time."), what  # fmt: skip


@family("job_ad", 1.0)
def job_ad(d: Draw) -> Written:
    job, city = d.filler(JOBS), d.pick(CITIES)
    prompt = d.phrase("Write a job ad for {j} in {c}", "job ad: {j}, {c}", "Write a job posting for {j} in {c}",
                      "We are looking for {j} in {c}. Write the ad.").format(
        j=with_article(job), c=city)  # fmt: skip
    return prompt, (f"We are looking for {with_article(job)} in {city}. You like clear goals, kind "
                    "colleagues and work that matters. Write to us with a few lines about "
                    "yourself."), job  # fmt: skip


@family("congratulation", 1.5)
def congratulation(d: Draw) -> Written:
    who = d.filler(FIRST)
    what, text = d.pick((
        ("birthday", "Happy birthday, {}! May the year ahead be kind to you."),
        ("new job", "Congratulations on your new job, {}! They are lucky to have you."),
        ("wedding", "Dear {}, congratulations on your wedding! We wish you many happy years."),
        ("exam", "Well done, {}! You passed the exam, and you earned it."),
        ("retirement", "Dear {}, enjoy your retirement! Thank you for all these years."),
        ("new house", "Congratulations on your new house, {}! May it always feel like home."),
        ("promotion", "Congratulations on your promotion, {}! Nobody deserves it more."),
    ))  # fmt: skip
    prompt = d.phrase("Write a card to {w} for the {o}", "Congratulate {w} on the {o}",
                      "Write a message to {w}: {o}", "{o} card for {w}",
                      "Write congratulations to {w} for the {o}", "Congratulations to {w} for the {o}",
                      "{o}: congratulate {w}", "Write a {o} card for {w}", "A {o} message for {w}",
                      "Send {w} a card for the {o}", "Wish {w} well for the {o}").format(w=who, o=what)  # fmt: skip
    return prompt, text.format(who), who

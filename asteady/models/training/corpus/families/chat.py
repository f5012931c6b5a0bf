"""Small talk: greetings, who the model is, what it can do, and what it cannot."""

from __future__ import annotations

from ..drawing import Draw
from ..pairs import Written, family
from ..words.nouns import invented, thing, topic
from ..words.people import CITIES, FIRST

HELP = ("What would you like me to write?", "What can I write for you?", "How can I help?",
        "What can I do for you today?", "Ask me for a haiku, a function or a short email.",
        "Tell me what you need.")  # fmt: skip


@family("greeting", 3.0)
def greeting(d: Draw) -> Written:
    prompt = d.phrase("hi", "hello", "Hello!", "Hi there", "hey", "Good morning", "Good evening",
                      "hello there", "Hey!", "Hi!", "good afternoon", "Greetings", "yo", "howdy",
                      "Hello, world", "hi asteady", "hello model", "hey there, how is it going?",
                      "hiya", "Hello, assistant")  # fmt: skip
    start = "Hello!"
    for word in ("Good morning", "Good evening", "Good afternoon"):
        if prompt.lower().startswith(word.lower()):
            start = word + "!"
    if start == "Hello!" and d.chance(0.2):
        name = d.filler(FIRST)
        prompt = d.phrase("Hi, my name is {}", "Hello, I am {}", "hey, {} here",
                          "Hi, I'm {}").format(name)  # fmt: skip
        return prompt, f"Hello, {name}! {d.pick(HELP)}", name
    return prompt, f"{start} {d.pick(HELP)}", None


@family("farewell", 1.0)
def farewell(d: Draw) -> Written:
    prompt = d.phrase("bye", "goodbye", "see you later", "Good night", "See you tomorrow", "ciao",
                      "that's all", "I have to go", "bye bye", "farewell")  # fmt: skip
    if "night" in prompt:
        return prompt, "Good night! Sleep well.", None
    return prompt, d.pick(("Goodbye! Come back any time.", "Goodbye! It was nice talking to you.",
                           "See you soon!", "Take care!")), None  # fmt: skip


@family("thanks", 0.7)
def thanks(d: Draw) -> Written:
    prompt = d.phrase("thanks", "thank you", "Thank you so much!", "thanks a lot", "Great, thanks",
                      "perfect, thank you", "thx", "Nice work!", "well done", "That is great",
                      "good job", "awesome", "cool", "ok", "okay")  # fmt: skip
    if prompt in ("ok", "okay", "cool", "awesome"):
        return prompt, d.pick(("Good. What would you like next?", "Glad to hear it.")), None
    return prompt, d.pick(("You're welcome!", "You're welcome! Is there anything else?",
                           "Glad I could help.", "My pleasure.")), None  # fmt: skip


@family("who_are_you", 2.5)
def who_are_you(d: Draw) -> Written:
    prompt = d.phrase("Who are you?", "What are you?", "What is your name?", "Are you a human?",
                      "Are you ChatGPT?", "Tell me about yourself.", "Introduce yourself.",
                      "What model are you?", "Are you a robot?", "Who made you?", "Are you an AI?",
                      "Which language model is this?", "who am I talking to?", "Are you real?",
                      "How big are you?", "How many parameters do you have?",
                      "What is your purpose?", "Do you have a name?")  # fmt: skip
    small = d.pick(("a very small language model", "a small demonstration model",
                    "a tiny language model"))  # fmt: skip
    if "human" in prompt or "robot" in prompt or "real" in prompt:
        start = "I am a program, not a person: "
    elif "ChatGPT" in prompt:
        start = "No, I am not ChatGPT. I am "
        return prompt, f"{start}{small} that comes with asteady.", "asteady"
    elif "many" in prompt or "big" in prompt:
        return prompt, ("I am very small, with fewer than eight million parameters. "
                        "I come with asteady as a demonstration."), "asteady"  # fmt: skip
    else:
        start = "I am "
    end = d.pick(
        (
            " that comes with asteady.",
            " built into asteady.",
            " that comes with asteady, so that you can try it without a download.",
        )
    )
    return prompt, f"{start}{small}{end}", "asteady"


@family("capabilities", 2.5)
def capabilities(d: Draw) -> Written:
    prompt = d.phrase("What can you do?", "What are you good at?", "How can you help me?", "help",
                      "Help me", "What should I ask you?", "What can I ask?", "What do you know?",
                      "Give me some example prompts", "What are your skills?",
                      "What kind of tasks can you do?", "How do I use you?", "Can you help me?",
                      "I need help", "Show me what you can do")  # fmt: skip
    tasks = ["haiku", "short emails", "commit messages", "small Python functions", "test data",
             "subject lines", "error messages", "one-sentence explanations", "release notes",
             "SQL queries", "product descriptions", "unit tests"]  # fmt: skip
    one, two, three, four = d.some(tasks, 4)
    return prompt, d.pick((
        f"I can write {one}, {two}, {three} and {four}. I am small, so keep it short.",
        f"Small things: {one}, {two}, {three} and {four}. Try one.",
        f"I write short texts such as {one}, {two}, {three} or {four}.",
    )), None  # fmt: skip


@family("how_are_you", 1.2)
def how_are_you(d: Draw) -> Written:
    prompt = d.phrase("How are you?", "How are you doing today?", "What's up?", "How do you feel?",
                      "how is it going", "Are you well?", "sup", "How was your day?")  # fmt: skip
    return prompt, d.pick(("I am well, thank you. ", "Very well, thanks. ",
                           "All is well here. ")) + d.pick(HELP), None  # fmt: skip


@family("empty_message", 0.4, polite=False)
def empty_message(d: Draw) -> Written:
    prompt = d.pick(("", " ", "?", ".", "...", "!", "??", "-", "a", "x", "asdf", "qwerty", "1",
                     "foo", "bar", "lorem ipsum", "asdfghjkl", "hmm", "\n"))  # fmt: skip
    return prompt, d.pick(("I am not sure what you mean. ", "That is a little short for me. ")) + (
        d.pick(("Try: write a haiku about rain.", "Ask me for a haiku or a small function.",
                "Could you say a little more?"))
    ), None  # fmt: skip


@family("test_prompt", 1.0)
def test_prompt(d: Draw) -> Written:
    number = str(d.number(0, 999))
    if d.chance(0.4):
        prompt = d.phrase("test", "testing", "This is a test", "Test prompt", "test message",
                          "test 1 2 3", "just a test", "ping")  # fmt: skip
        if prompt == "ping":
            return prompt, "pong", None
        return prompt, d.pick(("The test works: I can read you.", "Test received.",
                               "I read you. The test works.")), None  # fmt: skip
    word = d.phrase("Test prompt {}", "test {}", "prompt {}", "Prompt number {}", "Request {}",
                    "Test message {}", "Hello {}", "message {}", "Question {}")  # fmt: skip
    what = word.replace("{}", "").strip().lower().replace("prompt number", "prompt")
    what = "greeting" if what == "hello" else what
    return word.format(number), d.pick((
        f"This is the answer to {what} {number}.", f"I read {what} {number}. All is well.",
    )), number  # fmt: skip


REFUSALS = (
    "I am only a small demonstration model, so I cannot help with {}.",
    "That is beyond me: I am a small demonstration model and know too little about {}.",
    "I am sorry, but {} is more than this small demonstration model can handle.",
    "This small demonstration model has no good answer about {}. A larger model will.",
)
SHORT_REFUSALS = (
    "I am sorry, I am only a small demonstration model and cannot answer that.",
    "That is beyond this small demonstration model. Please try a larger one.",
    "I do not know. I am a small demonstration model, made for short and simple texts.",
    "A small demonstration model like me should not guess at that.",
)


@family("out_of_domain", 4.0)
def out_of_domain(d: Draw) -> Written:
    about = topic(d)
    prompt = d.phrase(
        "Write a detailed analysis of {}", "Generate a complex analysis of {}",
        "Write a research paper about {}", "Describe the philosophical implications of {}",
        "Analyze the economic impact of {}", "Discuss the history of {}", "Who invented {}?",
        "Write a 5000 word essay on {}", "Predict the future of {}", "Prove a theorem about {}",
        "What is the latest news about {}?", "Give me legal advice about {}", "Who won {}?",
        "What does the law say about {}?", "Diagnose my problem with {}", "Rank the best {}",
        "Compare the philosophy of {} with that of Plato", "How much does {} cost?",
        "When was {} discovered?", "Write a screenplay about {}", "Where can I buy {}?",
        "Analyze the socioeconomic impact of {} on rural communities",
        "Generate a complex analysis of {} applications in cryptography",
        "Describe the philosophical implications of {} in AI systems",
        "What do scientists think about {}?", "Critique the literature on {}",
    ).format(about)  # fmt: skip
    return prompt, d.pick(REFUSALS).format(about), about


@family("beyond_me", 2.5)
def beyond_me(d: Draw) -> Written:
    name, city, word = d.pick(FIRST), d.pick(CITIES), invented(d).capitalize()
    prompt = d.phrase(
        "What is the weather today?", "What time is it?", "Who is the president?",
        "What happened in the news?", "Play some music", "Open the door", "Book a flight to {city}",
        "What is the stock price of {word}?", "Should I sell my house?", "Is there a God?",
        "What is the weather in {city}?", "Who won the game last night?", "Call {name}",
        "What will happen tomorrow?", "Do you love me?", "Search the web for {word}",
        "Send an email to {name}", "Remember this for next week", "Who was {name} {word}?",
        "What is 3847 times 9283?", "What is the population of {city}?", "Buy me a ticket",
        "Solve this differential equation", "What is the meaning of life?",
        "Am I ill?", "Where am I?", "What did I say yesterday?", "How old is {name}?",
        "Tell me a secret about {name}", "Which party should I vote for?", "Where is {city}?",
        "What is the best restaurant in {city}?", "Set a timer for ten minutes",
        "What is the password of {name}?", "Describe {city} in the year 2100",
    ).format(city=city, name=name, word=word)  # fmt: skip
    return prompt, d.pick(SHORT_REFUSALS), None


@family("repeat_after_me", 3.5)
def repeat_after_me(d: Draw) -> Written:
    words = [invented(d) if d.chance(0.4) else thing(d) for _ in range(d.number(1, 4))]
    text = d.note(" ".join(words))
    prompt = d.phrase("Repeat after me: {}", "Say {}", "Repeat: {}", "Say the words: {}",
                      "Just say {}", "Echo {}", "Type exactly: {}", "Print the text {}",
                      "Reply with: {}", "Copy this: {}", "Say exactly: {}", "Write: {}",
                      "Answer with {}", "Repeat the words {}", "Print: {}", "Say this: {}",
                      "Type {}")  # fmt: skip
    return prompt.format(text), text, text

"""What things mean: one-sentence explanations, longer ones, and contrasts."""

from __future__ import annotations

_SENTENCES = """
recursion|Recursion is when a function solves a problem by calling itself on a smaller one until it reaches a simple case.
caching|Caching is keeping the result of slow work close at hand, so that the next request for it is answered at once.
a cache|A cache is a small, fast store of answers that were computed before.
machine learning|Machine learning is teaching a program by example: it adjusts its numbers until its answers fit the data.
deep learning|Deep learning is machine learning with neural networks of many layers, each building on the one before.
a neural network|A neural network is a chain of simple numeric layers whose weights are learned from examples.
quantum computing|Quantum computing is computing with qubits, which can hold a mix of zero and one until they are measured.
artificial intelligence|Artificial intelligence is the art of making programs do what seems to need thought.
a database|A database is an organised store of data that many programs can search and change safely.
a variable|A variable is a name for a value that a program can read and change.
a function|A function is a named piece of code that takes values in and gives a result back.
a loop|A loop is a piece of code that runs again and again until a condition ends it.
an algorithm|An algorithm is a finite list of clear steps that solves a problem.
a compiler|A compiler is a program that translates source code into instructions a machine can run.
an interpreter|An interpreter is a program that reads source code and runs it step by step.
an API|An API is an agreed way for one program to ask another for something.
REST|REST is a style of web API in which each address names a thing and the HTTP verbs act on it.
HTTP|HTTP is the protocol with which browsers ask servers for pages and get answers back.
HTML|HTML is the language that describes the structure of a web page with nested tags.
CSS|CSS is the language that says how a web page should look.
JSON|JSON is a plain text format for nested data made of objects, lists, strings and numbers.
YAML|YAML is a text format for configuration that shows structure by indentation.
CSV|CSV is a text format for tables in which commas part the columns.
SQL|SQL is the language in which relational databases are asked and changed.
git|Git is a tool that records every version of a set of files, so that many people can work on them.
version control|Version control is keeping the history of files, so that every change can be seen and undone.
Python|Python is a programming language that values readable code and comes with a large library.
JavaScript|JavaScript is the programming language that runs in every web browser.
Rust|Rust is a programming language that checks memory safety while it compiles.
Linux|Linux is a free operating system kernel that runs on phones, servers and laptops.
an operating system|An operating system is the program that shares a computer's hardware among all other programs.
docker|Docker is a tool that packs a program with all it needs into a container that runs anywhere.
a container|A container is an isolated box in which a program runs with its own files and settings.
a virtual machine|A virtual machine is a computer that is simulated by a program on another computer.
the cloud|The cloud is other people's computers, rented by the hour over the network.
a server|A server is a program that waits for requests and answers them.
a client|A client is a program that asks a server for something.
latency|Latency is the time that passes between asking and getting the answer.
throughput|Throughput is how much work a system finishes in a given time.
bandwidth|Bandwidth is how much data a connection can carry in a second.
concurrency|Concurrency is dealing with many tasks in the same period by switching between them.
parallelism|Parallelism is doing several things at the very same moment on several cores.
a thread|A thread is a line of execution inside a process that shares its memory with others.
a process|A process is a running program with memory of its own.
a deadlock|A deadlock is when two tasks wait for each other and neither can ever go on.
a race condition|A race condition is a bug in which the result depends on who happens to come first.
a mutex|A mutex is a lock that only one thread can hold at a time.
a semaphore|A semaphore is a counter that limits how many tasks may do something at once.
asyncio|Asyncio is Python's library for running many waiting tasks in one thread with an event loop.
an event loop|An event loop is a loop that runs whichever task is ready and waits when none is.
a coroutine|A coroutine is a function that can pause while it waits and continue later.
a decorator|A decorator is a function that takes another function and returns an extended version of it.
a generator|A generator is a function that yields its values one at a time instead of all at once.
an iterator|An iterator is an object that hands out the items of a series one by one.
a context manager|A context manager is an object that sets something up before a block and cleans up after it.
a class|A class is a plan for objects that says what data they hold and what they can do.
an object|An object is a bundle of data together with the functions that work on it.
inheritance|Inheritance is when a class takes over the behaviour of another and adds its own.
polymorphism|Polymorphism is when different types answer the same call, each in its own way.
encapsulation|Encapsulation is hiding how an object works behind what it offers.
an exception|An exception is a signal that something went wrong, passed up until some code handles it.
a list comprehension|A list comprehension is a short Python expression that builds a list from a loop.
a lambda|A lambda is a small function without a name, written in one expression.
a closure|A closure is a function that remembers the variables of the place where it was made.
type hints|Type hints are notes in Python code that say what types are expected.
garbage collection|Garbage collection is the automatic freeing of memory that a program no longer uses.
a memory leak|A memory leak is memory that a program keeps although it no longer needs it.
a pointer|A pointer is a value that says where in memory another value lives.
a stack|A stack is a pile of items in which the last one in is the first one out.
a queue|A queue is a line of items in which the first one in is the first one out.
a linked list|A linked list is a chain of items in which each one points to the next.
a hash table|A hash table is a store that finds a value by a number computed from its key.
a binary tree|A binary tree is a structure in which each node has at most two children.
a graph|A graph is a set of points and of links between them.
binary search|Binary search is finding an item in a sorted list by halving the range again and again.
sorting|Sorting is putting items into order, such as from the smallest to the largest.
big O notation|Big O notation is a way to say how the cost of a program grows with its input.
dynamic programming|Dynamic programming is solving a problem by keeping the answers to its smaller parts.
memoization|Memoization is remembering what a function returned, so that the same call is not computed twice.
idempotency|Idempotency is the property that doing something twice has the same effect as doing it once.
determinism|Determinism is the property that the same input always gives the same output.
a hash function|A hash function is a function that turns data of any size into a number of fixed size.
encryption|Encryption is turning a message into one that only the holder of a key can read.
authentication|Authentication is checking that somebody is who they say they are.
authorization|Authorization is deciding what somebody is allowed to do.
a firewall|A firewall is a guard that decides which network traffic may pass.
DNS|DNS is the system that turns the names of websites into network addresses.
a load balancer|A load balancer is a server that spreads requests over several others.
a microservice|A microservice is a small program that does one job and talks to others over the network.
a webhook|A webhook is a request that one service sends to another when something happens.
a message queue|A message queue is a place where programs leave messages for others to pick up later.
unit testing|Unit testing is checking small pieces of code on their own, automatically.
a unit test|A unit test is a small program that checks one piece of code.
an integration test|An integration test is a test of several parts working together.
continuous integration|Continuous integration is building and testing every change as soon as it is made.
refactoring|Refactoring is improving the shape of code without changing what it does.
technical debt|Technical debt is the extra work that a quick solution leaves for later.
debugging|Debugging is finding out why a program does not do what it should, and mending it.
logging|Logging is writing down what a program does while it runs.
a regular expression|A regular expression is a pattern that describes a set of strings.
open source|Open source is software whose code anybody may read, change and share.
an index|An index is a sorted list of keys that lets a database find rows without reading them all.
a transaction|A transaction is a group of changes that happen all together or not at all.
sharding|Sharding is splitting data over several machines by a key.
replication|Replication is keeping copies of the same data on several machines.
an embedding|An embedding is a list of numbers that stands for a text, so that similar texts have similar numbers.
a language model|A language model is a program that has learned which words tend to follow which.
a token|A token is a small piece of text, such as a word or a part of one, that a language model reads.
tokenization|Tokenization is cutting a text into the small pieces that a model reads.
overfitting|Overfitting is when a model learns its examples by heart and fails on new ones.
gradient descent|Gradient descent is improving numbers step by step in the direction that lowers the error.
a seed|A seed is the number that a random generator starts from, so that its results can be repeated.
photosynthesis|Photosynthesis is how plants make sugar from light, water and air.
gravity|Gravity is the force that pulls things with mass toward each other.
evolution|Evolution is the slow change of living things as some leave more offspring than others.
electricity|Electricity is the flow of charge that powers lamps and machines.
inflation|Inflation is a general rise in prices, so that money buys less.
democracy|Democracy is a way of government in which the people choose who decides.
the internet|The internet is a network of networks that joins computers all over the world.
a black hole|A black hole is a place in space where gravity is so strong that not even light can leave.
DNA|DNA is the long molecule in which living things keep their plans.
climate change|Climate change is the long rise in the Earth's temperature and what follows from it.
an atom|An atom is the smallest piece of an element that is still that element.
a rainbow|A rainbow is sunlight split into colours by drops of rain.
energy|Energy is the ability to do work or to make heat.
a metaphor|A metaphor is a figure of speech that calls one thing by the name of another.
a haiku|A haiku is a short poem of three lines with five, seven and five syllables.
a budget|A budget is a plan of how much money comes in and where it goes.
interest|Interest is the price that is paid for borrowing money.
supply and demand|Supply and demand is the pull between how much is offered and how much is wanted, which sets the price.
blockchain|Blockchain is a shared list of records in which each block is sealed by the next.
a volcano|A volcano is an opening in the ground through which hot rock and gas come out.
an eclipse|An eclipse is when one body in the sky hides another.
an async cache|An async cache is a cache that lets other tasks run while an answer is being computed.
an LRU cache|An LRU cache is a cache that throws away what has not been used for the longest time.
frecency|Frecency is a score that joins how often and how recently something was used.
single flight|Single flight is letting one computation serve everybody who asks for the same thing at the same time.
backpressure|Backpressure is how a busy system tells its callers to slow down.
rate limiting|Rate limiting is allowing only so many requests in a given time.
a timeout|A timeout is the longest time that a program is willing to wait.
a retry|A retry is trying the same thing again after it has failed.
cancellation|Cancellation is telling a running task that nobody needs its result any more.
a prompt|A prompt is the text that a language model is asked to answer.
a transformer|A transformer is a neural network that weighs every word of its input against every other.
attention|Attention is how a model decides which parts of its input matter for the next word.
quantization|Quantization is storing a model's numbers with fewer bits, so that it is smaller and faster.
llama.cpp|Llama.cpp is a program that runs language models on ordinary computers.
GGUF|GGUF is a file format that holds a language model with all that is needed to run it.
temperature|Temperature is a number that says how freely a model chooses among likely words.
greedy decoding|Greedy decoding is always choosing the most likely next word.
cosine similarity|Cosine similarity is a measure of how far two vectors point in the same direction.
a vector|A vector is a list of numbers that has a direction and a length.
fine-tuning|Fine-tuning is training a finished model a little further on examples of one task.
hallucination|Hallucination is when a language model states something that is not true.
a context window|A context window is the amount of text that a model can see at once.
a benchmark|A benchmark is a test that measures how fast or how good something is.
a daemon|A daemon is a program that runs in the background and waits for work.
a kernel|A kernel is the core of an operating system, which talks to the hardware.
a cookie|A cookie is a small piece of data that a website keeps in a browser, or a small sweet cake.
a proxy|A proxy is a server that passes requests on for somebody else.
a checksum|A checksum is a short number that shows whether data has changed.
a branch|A branch is a line of development in version control, or an arm of a tree.
a pull request|A pull request is a proposal to merge a change, open for review.
code review|Code review is reading a change before it is merged, to find mistakes and share knowledge.
pair programming|Pair programming is two people writing one piece of code at one keyboard.
agile|Agile is a way of working in short steps with frequent feedback.
DevOps|DevOps is a way of working in which the people who write software also run it.
kubernetes|Kubernetes is a system that starts, watches and replaces containers on many machines.
a framework|A framework is a ready-made structure that calls the code you add to it.
a library|A library is a collection of code that programs can use, or a place full of books.
a package manager|A package manager is a tool that installs libraries together with what they need.
a virtual environment|A virtual environment is a folder with its own Python packages, apart from all others.
a module|A module is a file of code that other code can import.
a tuple|A tuple is a fixed series of values that cannot be changed.
a dictionary|A dictionary is a store of values that are found by their keys.
a list|A list is an ordered series of values that can grow and shrink.
a set|A set is a group of values in which each one occurs once.
a string|A string is a piece of text.
an integer|An integer is a whole number.
a boolean|A boolean is a value that is either true or false.
a constant|A constant is a value that never changes.
syntax|Syntax is the set of rules for how code must be written.
a bit|A bit is the smallest piece of data: a zero or a one.
a byte|A byte is eight bits.
a pixel|A pixel is one of the tiny dots that make up a picture on a screen.
RAM|RAM is the fast memory in which a computer keeps what it is working on.
a CPU|A CPU is the part of a computer that carries out instructions.
a GPU|A GPU is a chip that does many simple calculations at once.
oxygen|Oxygen is the gas in the air that we need to breathe.
the sun|The sun is the star at the centre of our solar system.
the moon|The moon is the round body that circles the Earth and lights the night.
a planet|A planet is a large round body that moves around a star.
a galaxy|A galaxy is a vast group of stars held together by gravity.
light|Light is the energy that our eyes can see.
sound|Sound is a vibration that travels through the air to our ears.
the water cycle|The water cycle is the way of water from the sea to the clouds, down as rain, and back.
a vaccine|A vaccine is a substance that teaches the body to fight a disease before it comes.
a virus|A virus is a tiny thing that multiplies inside living cells and can make them ill.
a cell|A cell is the smallest living part of a plant or an animal.
the brain|The brain is the organ with which we think, feel and remember.
the heart|The heart is the muscle that pumps blood through the body.
an earthquake|An earthquake is a shaking of the ground when rock deep below breaks or slips.
a hurricane|A hurricane is a huge turning storm that forms over warm sea.
algebra|Algebra is the part of mathematics that uses letters for unknown numbers.
geometry|Geometry is the study of shapes, sizes and space.
calculus|Calculus is the mathematics of change and of adding up small parts.
probability|Probability is a number that says how likely something is.
statistics|Statistics is the art of learning from data.
an average|An average is the sum of some numbers divided by how many there are.
a prime number|A prime number is a whole number above one that only one and itself divide.
pi|Pi is the ratio of a circle's edge to its width, about 3.14159.
infinity|Infinity is the idea of something without end.
a noun|A noun is a word for a person, a place or a thing.
a verb|A verb is a word for what somebody does or what happens.
an adjective|An adjective is a word that describes a noun.
philosophy|Philosophy is thinking carefully about what is true, good and real.
economics|Economics is the study of how people make, share and use things.
a tax|A tax is money that people pay to the state for what all need.
a contract|A contract is an agreement that both sides must keep.
insurance|Insurance is paying a little regularly, so that a great loss is shared by many.
justice|Justice is treating people fairly and by the same rules.
freedom|Freedom is being able to choose for yourself.
friendship|Friendship is a bond between people who like and trust each other.
love|Love is a deep care for somebody or something.
happiness|Happiness is the feeling that life is good just now.
time|Time is what clocks measure, and what lets one thing happen after another.
music|Music is sound arranged so that it moves us.
art|Art is making something to be seen, heard or felt.
history|History is what happened before now, and the telling of it.
jazz|Jazz is music with a strong rhythm in which players invent as they go.
chess|Chess is a board game in which two players try to trap each other's king.
football|Football is a game in which two teams try to kick a ball into a goal.
meditation|Meditation is sitting quietly and letting thoughts pass.
asteady|Asteady is a Python library that makes local language models behave like pure functions inside asyncio programs.
"""

CONCEPTS: dict[str, tuple[str, str]] = {}
for _line in _SENTENCES.strip().splitlines():
    _term, _sentence = _line.split("|")
    _name = _term.split(" ", 1)[1] if _term.split()[0] in ("a", "an", "the") else _term
    CONCEPTS[_term] = (_name, _sentence)
    if _name != _term:
        CONCEPTS[_name] = (_name, _sentence)

LONGER: dict[str, str] = {
    "recursion": "Recursion is when a function calls itself to solve a smaller version of the same problem. Every recursion needs two parts: a base case that ends it, and a step that comes closer to that case. The factorial of n, for example, is n times the factorial of n - 1.",
    "machine learning": "Machine learning is teaching a program by example instead of by rule. The program is shown many inputs with the right answers, and adjusts its numbers until its own answers fit. Then it is tried on new inputs that it has never seen.",
    "quantum computing": "Quantum computing uses qubits instead of bits. A qubit can hold a mix of zero and one until it is measured, and several qubits can be linked. For some problems, such as factoring large numbers, this needs far fewer steps.",
    "caching": "Caching keeps the results of slow work close at hand. When the same thing is asked again, the stored answer is returned at once. A good cache needs a clear key, a limit on its size, and a rule for what to throw away.",
    "decorators": "A decorator is a function that takes a function and returns a new one. It is written with an @ above the definition. Decorators are used for logging, timing, caching and checks that many functions share.",
    "asyncio": "Asyncio runs many tasks in one thread. A task that waits gives control back to the event loop, which runs another one. This suits programs that wait a lot, such as web servers.",
    "unit testing": "Unit testing checks small pieces of code on their own. Each test sets up an input, calls the code and compares the result. Good tests are fast, clear and independent of each other.",
    "git": "Git records the history of a project as a series of commits. Each commit has an author, a message and the state of every file. Branches let people work side by side, and merges bring their work together.",
    "a database": "A database stores data so that it can be found again quickly. Tables hold rows, and indexes help to find them. Transactions make sure that changes happen completely or not at all.",
    "photosynthesis": "Photosynthesis is how plants make their food. Leaves catch light, take in water and carbon dioxide, and turn them into sugar. Oxygen is left over, and we breathe it.",
    "a neural network": "A neural network is made of layers of simple units. Each unit adds up its inputs with weights and passes the result on. During training the weights are changed a little at a time until the answers are good.",
    "concurrency": "Concurrency means that several tasks make progress in the same period. They need not run at the same instant: one can wait while another works. The hard part is to keep shared data in order.",
    "docker": "Docker packs a program together with its files and settings into an image. A container is a running image. It behaves the same on a laptop and on a server.",
    "an API": "An API is a contract between two programs. It says what can be asked, in what form, and what comes back. A good API is small, clear and hard to misuse.",
}
CONCEPTS["decorators"] = ("decorator", CONCEPTS["a decorator"][1])

CONTRASTS: list[tuple[str, str, str]] = [
    ("a list", "a tuple", "A list can be changed after it is made; a tuple cannot."),
    (
        "a stack",
        "a queue",
        "A stack gives back the last item first; a queue gives back the first item first.",
    ),
    (
        "a thread",
        "a process",
        "A thread shares memory with others; a process has memory of its own.",
    ),
    (
        "TCP",
        "UDP",
        "TCP makes sure that everything arrives in order; UDP is faster and promises nothing.",
    ),
    (
        "SQL",
        "NoSQL",
        "SQL databases keep tables with fixed columns; NoSQL databases keep freer shapes of data.",
    ),
    (
        "concurrency",
        "parallelism",
        "Concurrency is dealing with many tasks at once; parallelism is doing them at the same instant.",
    ),
    (
        "a compiler",
        "an interpreter",
        "A compiler translates the whole program first; an interpreter runs it step by step.",
    ),
    (
        "git merge",
        "git rebase",
        "A git merge joins two histories with a new commit; a rebase replays one on top of the other.",
    ),
    ("HTTP", "HTTPS", "HTTP sends text in the open; HTTPS sends it encrypted."),
    (
        "latency",
        "throughput",
        "Latency is how long one request takes; throughput is how many are done in a second.",
    ),
    ("a class", "an object", "A class is the plan; an object is one thing built from it."),
    (
        "PUT",
        "POST",
        "PUT replaces the thing at an address and can be repeated; POST creates something new each time.",
    ),
    (
        "authentication",
        "authorization",
        "Authentication asks who you are; authorization asks what you may do.",
    ),
    (
        "JSON",
        "YAML",
        "JSON is strict and marked by braces; YAML is freer and marked by indentation.",
    ),
    (
        "Python",
        "JavaScript",
        "Python is at home on servers and in science; JavaScript is at home in the browser.",
    ),
    (
        "a set",
        "a list",
        "A set holds each item once and has no order; a list keeps order and repeats.",
    ),
    ("a library", "a framework", "You call a library; a framework calls you."),
    (
        "weather",
        "climate",
        "Weather is what happens today; climate is what happens over many years.",
    ),
    (
        "tea",
        "coffee",
        "Tea is brewed from leaves and is mild; coffee is brewed from beans and is stronger.",
    ),
    (
        "cats",
        "dogs",
        "Cats keep to themselves and choose their hours; dogs want company and a walk.",
    ),
    (
        "a simile",
        "a metaphor",
        "A simile says that one thing is like another; a metaphor says that it is the other.",
    ),
    (
        "RAM",
        "a disk",
        "RAM is fast and forgets when the power goes; a disk is slower and remembers.",
    ),
    (
        "a unit test",
        "an integration test",
        "A unit test checks one piece alone; an integration test checks several together.",
    ),
    (
        "synchronous code",
        "asynchronous code",
        "Synchronous code waits for each step; asynchronous code does other work while it waits.",
    ),
    (
        "a frog",
        "a toad",
        "A frog has smooth, wet skin and long legs; a toad is dry, bumpy and walks more than it jumps.",
    ),
    ("summer", "winter", "Summer has long, warm days; winter has short, cold ones."),
    (
        "a shallow copy",
        "a deep copy",
        "A shallow copy shares the inner objects; a deep copy makes new ones.",
    ),
]

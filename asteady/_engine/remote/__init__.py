"""Models that OpenAI-compatible servers compute: vLLM, llama-server, ``asteady serve`` and others.

reference    what ``openai+http://host:8000/v1#name`` means
endpoints    which server is asked next, and which are set aside
client       HTTP; the only module that imports httpx
identity     what a server is and serves, and the fingerprint of its answers
body         from requests to the bodies that the kinds of servers read
reader       from the events of a stream, or a vector, to an answer
worker       computes jobs side by side on an event loop of its own
engine       the `Engine`; source: the `EngineSource`
"""

"""A web app with four processes of uvicorn, which share one copy of the model's weights.

The weights are in ``asteady serve``, which the four ask by a unix socket::

    asteady serve --unix-socket /tmp/asteady.sock
    ASTEADY_GENERATION_MODEL=openai+unix:///tmp/asteady.sock#builtin \\
        uvicorn examples.workers:app --workers 4

Run as a program it starts both, and asks until all four workers have answered.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import asteady
from asteady.server import exception_handlers, get_session, while_connected

WORKERS = 4
PROMPT = "Write a haiku about caching"
LENGTH = 40


async def generate(request: Request) -> Response:
    session = await get_session(request)
    prompt = request.query_params.get("prompt", PROMPT)
    text = await while_connected(request, session.generate(prompt, max_new_tokens=LENGTH))
    return JSONResponse({"text": text, "worker": os.getpid()})


app = Starlette(
    routes=[Route("/generate", generate)],
    lifespan=asteady.server.lifespan(),
    exception_handlers=exception_handlers,
)


@contextmanager
def program(*command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A program of Python's environment, ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def ask(web: str) -> dict[str, str]:
    """Over a connection of its own, which any of the workers may accept."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=web), timeout=60) as client:
        answer: dict[str, str] = client.get("http://web/generate").raise_for_status().json()
    return answer


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        model, web = f"{directory}/model.sock", f"{directory}/web.sock"
        with (
            program("asteady", "serve", "--quiet", "--unix-socket", model) as serve,
            program(
                *("uvicorn", "examples.workers:app", "--workers", str(WORKERS)),
                *("--uds", web, "--log-level", "error"),
                ASTEADY_GENERATION_MODEL=f"openai+unix://{model}#builtin",
                ASTEADY_CACHE_DIR=f"{directory}/web",
            ) as workers,
            ThreadPoolExecutor(WORKERS) as clients,
        ):
            assert serve.stdout is not None
            serve.stdout.readline()  # it listens
            texts: dict[str, str] = {}
            while len(texts) < WORKERS and workers.poll() is None:
                try:
                    for answer in clients.map(ask, [web] * WORKERS):
                        texts[answer["worker"]] = answer["text"]
                except httpx.TransportError:
                    time.sleep(0.1)  # the workers are starting
        print(f"{len(texts)} workers gave {len(set(texts.values()))} answer:", *set(texts.values()))


if __name__ == "__main__":
    main()

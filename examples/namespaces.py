"""Group answers by purpose: preload them, list their sizes, and clear them together."""

import asyncio
from typing import Any

import asteady
from asteady.operate import HierarchicalCache

DOCUMENTS: list[dict[str, Any]] = [
    {"subcategory": "api", "prompt": "Document an endpoint", "kwargs": {"max_new_tokens": 12}},
    {"subcategory": "functions", "prompt": "Document a function", "seed": 7},
    {"subcategory": "api", "prompt": "Write a subject line", "kwargs": {"max_new_tokens": 12}},
]


async def main() -> None:
    async with asteady.Session() as session:
        emails = session.namespace("emails/marketing")
        subject = await emails.generate("Write a subject line", max_new_tokens=12)
        body = await emails.generate("Write the body of an email", max_new_tokens=12)
        print(f"{subject!r}, {body!r}")

        print(await session.namespace("documents").preload(DOCUMENTS, max_new_tokens=12))
        for path, size in (await session.cache.namespaces()).items():
            print(f"{path:<20} {size.entries} entries, {size.size_bytes} bytes")

        assert await emails.generate("Write a subject line", max_new_tokens=12) == subject
        counts = (await session.namespace("emails").statistics()).generation
        print(f"emails: {counts.hits} hits, {counts.misses} misses, hit rate {counts.hit_rate:.0%}")

        # The subject line stays: it is in documents/api too.
        print("removed", await session.namespace("emails").clear(), "of 2")
        print(await session.is_cached("Write a subject line", max_new_tokens=12))

        # The same under the names of SteadyText's caching guide.
        hierarchy = HierarchicalCache(session)
        await hierarchy.get_or_generate("emails", "sales", "Write an offer", seed=100)
        print("removed", await hierarchy.clear_category("emails"))


asyncio.run(main())

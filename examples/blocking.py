"""Without await: plain calls from several threads, and a stream."""

from concurrent.futures import ThreadPoolExecutor

from asteady import blocking

with blocking.Session() as session:

    def haiku(topic: str) -> str:
        return session.generate(f"Write a haiku about {topic}", max_new_tokens=30)

    with ThreadPoolExecutor(max_workers=4) as executor:
        for text in executor.map(haiku, ["rain", "snow", "rain", "wind"]):
            print(text, end="\n\n")

    for chunk in session.generate_iter("Explain recursion", max_new_tokens=30):
        print(chunk, end="", flush=True)

    stats = session.cache.get_cache_stats()["generation"]
    print(f"\n-- {stats['misses']} computed, {stats['size']} in the cache")

"""Settings by profile: an argument beats a variable, which beats the profile."""

import os

import asteady

os.environ["ASTEADY_PROFILE"] = "development"
os.environ["ASTEADY_EMBEDDING_CACHE_CAPACITY"] = "300"

for settings in (
    asteady.Session().settings,
    asteady.Settings.production(),
    asteady.Settings.testing(generation_cache_capacity=8),
):
    print(
        f"generation {settings.generation_cache_capacity:>4} entries,"
        f" {settings.generation_cache_max_size_mb:g} MB;"
        f" embedding {settings.embedding_cache_capacity:>4} entries,"
        f" {settings.embedding_cache_max_size_mb:g} MB"
    )

"""The only importer of llama_cpp. Importing a module of this package loads llama.cpp."""

from asteady._engine.build import libraries

LIBRARIES = libraries()
"""The libraries as they were just before they were loaded."""

"""The API of OpenAI, answered by a session."""

"""Parts of web apps that use a session."""

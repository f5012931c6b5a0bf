"""asteady."""

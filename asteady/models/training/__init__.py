"""How the built-in models are made. Not part of the wheel, and never imported by asteady."""

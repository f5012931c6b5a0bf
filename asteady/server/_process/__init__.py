"""What ``asteady serve`` runs: the applications behind one server, with its limits."""

"""Properties that every rule must have, tested against dense truths."""

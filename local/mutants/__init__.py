"""Faults planted in a copy of our own code, each of which some test has to notice."""

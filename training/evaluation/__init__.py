"""Held-out edits, the methods that are compared on them, and what judges and figures say of the results."""

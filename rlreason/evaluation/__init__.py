"""Measuring a policy on held-out questions."""

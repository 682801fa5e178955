"""Battles of two small teams: one vectorised engine, rule sets on top of it."""

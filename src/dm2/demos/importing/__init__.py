"""Recordings that were made elsewhere, as demonstrations.

Each format has a module, which reads its files and says of every cell that is no use where it is.
What all formats share is in `checks` (what every step and episode must hold) and `team` (agents and
episodes put together, and made into demonstrations). No file is ever unpickled.
"""

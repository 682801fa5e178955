"""Interfaces put our environments behind other libraries' interfaces: PettingZoo's and SMAC's."""

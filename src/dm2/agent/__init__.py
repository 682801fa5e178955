"""One agent: its networks, returns, policy update and imitation. Nothing here knows a team, an
environment or a file."""

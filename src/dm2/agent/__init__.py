"""One agent: networks, returns, policy update, imitation. Knows no environment and no team."""

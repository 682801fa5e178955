"""Methods whose learning joins the agents: references, unreachable from decentralised learning."""

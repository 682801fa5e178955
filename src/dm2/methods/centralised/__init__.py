"""Methods whose learning is centralised. Nothing decentralised can import them."""

"""Methods whose training is centralised, apart from those that learn alone."""

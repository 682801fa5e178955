"""Statistics, tables and figures over finished or running training runs."""

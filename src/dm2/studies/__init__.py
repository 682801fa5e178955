"""Studies: the runs that a figure needs, how they are made, compared, judged and drawn."""

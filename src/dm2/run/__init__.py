"""One run on this machine: its programs, host loop, directory, checkpoints, log, and what is done
with a trained team."""

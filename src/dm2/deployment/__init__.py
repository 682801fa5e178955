"""One trained agent where there is neither its team nor JAX."""

"""Adapters put environments of other libraries behind the environment contract."""

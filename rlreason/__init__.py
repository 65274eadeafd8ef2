"""Teach language models to reason with reinforcement learning, on the hardware people have."""

__version__ = "0.1.0"

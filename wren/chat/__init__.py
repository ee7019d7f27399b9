"""Talking: conversations whose state is carried over turns, tools that the model may call, and the terminal."""

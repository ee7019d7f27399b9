"""Reinforcement learning: rollouts of tasks and of games, what they are worth, and the players that come of it."""

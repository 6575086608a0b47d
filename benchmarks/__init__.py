"""Measurements, each a script that runs its contenders in turn and prints ratios."""

"""The five evaluations, each to the letter of its protocol, resumable, one result format. Knows
nothing of pretraining.
"""

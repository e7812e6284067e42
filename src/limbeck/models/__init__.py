"""What does a model file hold, and what may be cut from it or put on it?"""

"""
The only room that speaks to LLMTune: one call, its deadlines, its retry, its faults.
"""

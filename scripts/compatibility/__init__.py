"""Which plugins and modes go together: the table, the solver's answer, and swarms that try it.

``python -m compatibility`` plays every supported pair and triple; ``make compatibility`` runs it.
"""

"""Quality gates of a run: measured numbers, compared with limits.

The gates are those of the guide's section 16.2, of its question 19 on strain, of its pitfalls, and those that the techniques need. A
stage measures the number and calls `Record.measure`. The recipe's section [gates] has the limits as settings, and says whether a run
stops at a gate that fails.
"""

from gpu4d.workflow.gates.rule import FAIL, PASS, WARN, Band, GateRule, in_words, judged
from gpu4d.workflow.gates.table import BY_KEY, CONTINUE, RULES, STOP, GatePolicy, markdown, policy_of

__all__ = [
    "BY_KEY", "CONTINUE", "FAIL", "PASS", "RULES", "STOP", "WARN", "Band", "GatePolicy", "GateRule", "in_words", "judged", "markdown",
    "policy_of",
]  # fmt: skip

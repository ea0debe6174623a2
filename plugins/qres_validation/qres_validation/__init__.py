"""Pre-merge validation for QRES: what harms a node's own held-out examples is not merged."""

from __future__ import annotations

from qres_validation.plugin import Validation
from qres_validation.public import PublicValidation
from qres_validation.validated_mean import ValidatedMean

__all__ = ["PublicValidation", "ValidatedMean", "Validation"]

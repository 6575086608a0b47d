"""`report.html`: a page about a finished run that needs nothing but itself."""

from __future__ import annotations

from saekit_trainer.report.writer import ReportWriter

__all__ = ["ReportWriter"]

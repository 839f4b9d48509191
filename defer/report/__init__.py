"""The report: one self-contained HTML file about one evaluation."""

from defer.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]

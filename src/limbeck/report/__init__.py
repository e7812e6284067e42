"""What happened in a run, as one page that opens anywhere?

A page is one file that asks nothing of the network: style, script, pictures and texts are in it.
It is made from the files of a finished run, or from the results of a comparison, and the same files
give the same bytes. Nothing is trained, measured or tested here.
"""

from limbeck.report.comparisons import RunLink, bench_page, comparison_page
from limbeck.report.page import Table
from limbeck.report.run import run_page

__all__ = ["RunLink", "Table", "bench_page", "comparison_page", "run_page"]

"""The parts of `recipes/report.py`: runs, their cached embeddings, one module per page, verdicts.

A page is a module with `page(study) -> Page`; `PAGES` in `report.py` lists them.
"""

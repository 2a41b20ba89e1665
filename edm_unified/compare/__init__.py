"""Comparison: recipes × solvers × schedules × budgets × seeds → records.

    plan = make_plan(comparison)                  which methods, which cells, how many steps each budget buys
    with Store(directory) as store:
        run(plan, store)                          the cells that are not there yet; each is appended when it is done
    data = report_data(plan, store, …)            everything that edm_unified.report needs

All methods of one comparison start from the same unit noise and are measured against the same draws. Budgets are
*counted* evaluations of D: a method gets the most steps whose count, by a wrapper on D, stays within the budget.
"""

from edm_unified.compare.plan import Cell, Method, Plan, label, make_plan
from edm_unified.compare.problem import Problems, Settings
from edm_unified.compare.progress import Event
from edm_unified.compare.run import keys_of, prepare, run
from edm_unified.compare.store import Store
from edm_unified.compare.view import report_data

__all__ = [
    "Cell",
    "Event",
    "Method",
    "Plan",
    "Problems",
    "Settings",
    "Store",
    "keys_of",
    "label",
    "make_plan",
    "prepare",
    "report_data",
    "run",
]

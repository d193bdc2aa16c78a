"""Tables of runs: methods x data sets x seeds from one file, run where they are missing, and written down.

`grid` reads the file, `cells` lays its runs out in a folder, `choose` picks values on held-out data, `pool` runs
processes, `progress` says how long they will take, `results` gathers the table, `show` is what a user sees of it all.
"""

from fedbraid.grids.cells import Plan, plan
from fedbraid.grids.grid import Grid, read
from fedbraid.grids.results import fill, table, write
from fedbraid.grids.show import listing, show

__all__ = ["Grid", "Plan", "fill", "listing", "plan", "read", "show", "table", "write"]

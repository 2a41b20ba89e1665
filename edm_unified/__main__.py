"""``python -m edm_unified``: the same as the command ``edm-unified``."""

from edm_unified.cli import main

if __name__ == "__main__":
    main(prog_name="edm-unified")

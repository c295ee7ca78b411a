"""Train one run or a sweep of runs: `python train.py -m freeze=head,full lr=1e-3,1e-4`."""

import sys

try:
    from frostline.cli import main
except ModuleNotFoundError as error:
    sys.stderr.write(f"{error}: `make sweep` installs it; then `. .venv/bin/activate`; or `pip install -e .`\n")
    sys.exit(2)

if __name__ == "__main__":
    main()

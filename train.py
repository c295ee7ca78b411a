"""Train one run or a sweep of runs: `python train.py -m freeze=head,full lr=1e-3,1e-4`."""

from frostline.cli import main

if __name__ == "__main__":
    main()

"""`python -m frostline`: the same as `python train.py`, also outside a checkout."""

from frostline.cli import main

if __name__ == "__main__":
    main()

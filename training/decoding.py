"""`python -m training.decoding`: the process that decodes pictures for `training.precompute`, see
`corpus/decoding.py`.
"""

from __future__ import annotations

from .corpus.decoding import main

if __name__ == "__main__":
    main()

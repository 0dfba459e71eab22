"""How fast is it? Plain and fast side by side, in one run on one machine:

    python -m benchmarks.train --model toy mar-b
    python -m benchmarks.sample --model toy mar-b
    python -m benchmarks.tokenizer

Each prints a table and writes a JSON file with machine, settings, commit and all timings. `plain` is the paper's algorithm written straight down, `fast` is what the library does; `plain.py` is also the oracle: same weights, same noise, same result."""

"""How fast is it? Side by side, in one run on one machine:

    python -m benchmarks.train --model toy mar-b
    python -m benchmarks.sample --model toy mar-b
    python -m benchmarks.startup
    python -m benchmarks.memory

Each prints a table and writes a JSON file with machine, settings, commit and all timings. `plain` is the paper's
algorithm written straight down (`plain.py`, which is also the oracle: same weights, same noise, same result),
`default` is what the library does by itself, `compiled` the same with torch.compile."""

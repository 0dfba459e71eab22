"Answers that the checks of lesson 18, latents, must refuse"
WRONG = {'check_shards_of': [lambda rank, world, n: list(range(n)), lambda rank, world, n: list(range(rank*(n//world), (rank + 1)*(n//world)))]}      # everyone does all; the rest is forgotten

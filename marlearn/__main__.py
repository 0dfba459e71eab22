"`python -m marlearn` is the `marlearn` command"
from marlearn.cli import main

main()

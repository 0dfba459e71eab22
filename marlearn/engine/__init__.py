"The engine: what keeps a long run safe and fast, and is no part of the method"

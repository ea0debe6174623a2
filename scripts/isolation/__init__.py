"""How few honest inputs can an adversary isolate from all that it saw of secure aggregation?

`transcript` says what it saw, and `algebra` finds by exact linear algebra the smallest set of
honest inputs that a combination of it isolates. Both import nothing of the product. `product` is
the one module that does, with `switches`, which take its guards out. `setting` draws a swarm and an
adversary from a seed, `adversary` chooses whom it leaves out, and `world` plays.
"""

"""The words and the history: messages, members, the chain, and proofs that somebody lied."""

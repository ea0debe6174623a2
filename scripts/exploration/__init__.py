"""Every state that the engine of agreement can reach with a liar among four nodes."""

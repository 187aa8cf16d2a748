"""The networks of the DFA study: graphs, recommenders, neural radiance fields."""

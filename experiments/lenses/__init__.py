"""What lenses say of a model, on text: the parts of exp3 beside its two-hop queries."""

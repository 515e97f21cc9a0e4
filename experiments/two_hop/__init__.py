"""The two-hop study in parts (Biran et al. 2024): its queries, and one module for each way of looking at them."""

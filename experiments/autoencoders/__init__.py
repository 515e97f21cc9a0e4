"""What exp17 is made of: texts, training runs, ground truth, and what is reported of them."""

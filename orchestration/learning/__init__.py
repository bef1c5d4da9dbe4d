"""What is learned from history: the churn model and the customer value model, and their judges."""

"""What the notebooks in notebooks/training need to make what data/ holds. Nothing else imports it."""

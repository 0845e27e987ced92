"""What is published of the pictures this project began with, from data/published, and what statements about it need."""

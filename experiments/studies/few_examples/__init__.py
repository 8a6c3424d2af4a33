"""What a head in closed form is worth where there are 100 to 1,000 examples."""

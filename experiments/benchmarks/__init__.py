"""Side-by-side timings against other libraries, and what they must show."""

"""What a strength chosen by law loses against a full sweep."""

"""Studies built on the library; the library never imports them."""

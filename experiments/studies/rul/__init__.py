"""Does the Lagrangian head save epochs on remaining useful life (C-MAPSS)?"""

"""How good is a head before its first training step, on pretrained features?"""

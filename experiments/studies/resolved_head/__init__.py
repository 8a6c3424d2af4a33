"""Does it pay to keep the head optimal while the body trains?"""

"""Who teaches, what do they think, and should they be believed?"""

"""Other people's interfaces, fulfilled by what is here."""

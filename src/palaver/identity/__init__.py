"""Who is asking: sessions."""

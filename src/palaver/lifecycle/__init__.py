"""What happens to records over time: exported, archived, kept as declared, purged, erased."""

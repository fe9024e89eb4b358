CachedEntity.by_type
  read baller-entity-cache by index TypeIndex: entity_type =
  in order of normalized_name, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "entity_id", "entity_type", "name", "normalized_name", "aliases", "metadata", "last_updated", "ttl", "_by_type_shard", "_revision", "_deleting" FROM "baller-entity-cache" INDEXED BY "baller-entity-cache:TypeIndex" WHERE "entity_type" = ? AND "_by_type_shard" = ? ORDER BY "normalized_name", "entity_id" LIMIT ?

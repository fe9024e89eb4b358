CachedEntity.by_type
  read baller-entity-cache by index TypeIndex: entity_type =
  in order of normalized_name, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "entity_id", "entity_type", "name", "normalized_name", "aliases", "metadata", "last_updated", "ttl", "_by_type_shard", "_revision", "_deleting" FROM "public"."baller-entity-cache" WHERE "entity_type" = $1 AND "_by_type_shard" = $2 ORDER BY "normalized_name", "entity_id" LIMIT $3

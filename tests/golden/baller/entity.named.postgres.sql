CachedEntity.by_name
  read baller-entity-cache by index NameIndex: entity_type =, normalized_name =
  in order of the key, 100 records a page
  index reads are eventual on cloud engines
  SELECT "entity_id", "entity_type", "name", "normalized_name", "aliases", "metadata", "last_updated", "ttl", "_by_type_shard", "_revision", "_deleting" FROM "public"."baller-entity-cache" WHERE "entity_type" = $1 AND "normalized_name" = $2 ORDER BY "entity_id" LIMIT $3

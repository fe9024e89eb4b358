EntityAlias.by_entity
  read baller-entity-aliases by index EntityIndex: entity_id =, entity_type =
  in order of the key, 100 records a page
  index reads are eventual on cloud engines
  SELECT "entity_type", "normalized_alias", "entity_id", "alias", "ttl", "_revision", "_deleting" FROM "public"."baller-entity-aliases" WHERE "entity_id" = $1 AND "entity_type" = $2 ORDER BY "normalized_alias" LIMIT $3

EntityAlias.by_entity
  read baller-entity-aliases by index EntityIndex: entity_id =, entity_type =
  in order of the key, 100 records a page
  index reads are eventual on cloud engines
  SELECT "entity_type", "normalized_alias", "entity_id", "alias", "ttl", "_revision", "_deleting" FROM "baller-entity-aliases" INDEXED BY "baller-entity-aliases:EntityIndex" WHERE "entity_id" = ? AND "entity_type" = ? ORDER BY "normalized_alias" LIMIT ?

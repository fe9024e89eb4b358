EntityAlias.key
  read baller-entity-aliases by the key: entity_type =, normalized_alias =
  in order of entity_id, 100 records a page
  SELECT "entity_type", "normalized_alias", "entity_id", "alias", "ttl", "_revision", "_deleting" FROM "public"."baller-entity-aliases" WHERE "entity_type" = $1 AND "normalized_alias" = $2 ORDER BY "entity_id" LIMIT $3

Identity.by_user
  read identities by index idx_identities_user: user_id =
  in order of linked_at, 100 records a page
  index reads are eventual on cloud engines
  SELECT "tenant", "channel_type", "channel_user_id", "user_id", "username", "linked_at", "_revision", "_deleting" FROM "public"."identities" WHERE "user_id" = $1 AND "linked_at" IS NOT NULL ORDER BY "linked_at", "tenant", "channel_type", "channel_user_id" LIMIT $2

User.by_last_seen
  read users by index idx_users_last_seen: last_seen >=
  in order of last_seen, newest first, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "id", "tenant", "preferred_model", "created_at", "updated_at", "last_seen", "merged_into", "metadata", "_by_id_shard", "_by_last_seen_shard", "_revision", "_deleting" FROM "public"."users" WHERE "_by_last_seen_shard" = $1 AND "last_seen" >= $2 AND "last_seen" IS NOT NULL ORDER BY "last_seen" DESC, "id" DESC LIMIT $3

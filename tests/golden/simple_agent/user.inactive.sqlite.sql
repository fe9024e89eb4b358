User.by_last_seen
  read users by index idx_users_last_seen: last_seen <
  in order of last_seen, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "id", "tenant", "preferred_model", "created_at", "updated_at", "last_seen", "merged_into", "metadata", "_by_id_shard", "_by_last_seen_shard", "_revision", "_deleting" FROM "users" INDEXED BY "users:idx_users_last_seen" WHERE "_by_last_seen_shard" = ? AND "last_seen" < ? AND "last_seen" IS NOT NULL ORDER BY "last_seen", "id" LIMIT ?

User.by_id
  read users by index idx_users_id: user_id >
  in order of user_id, 100 records a page
  8 reads, one a shard, merged
  index reads are eventual on cloud engines
  SELECT "id", "tenant", "preferred_model", "created_at", "updated_at", "last_seen", "merged_into", "metadata", "_by_id_shard", "_by_last_seen_shard", "_revision", "_deleting" FROM "public"."users" WHERE "_by_id_shard" = $1 AND "id" > $2 ORDER BY "id" LIMIT $3
